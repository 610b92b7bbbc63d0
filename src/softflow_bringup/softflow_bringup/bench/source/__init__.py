"""Commands a hand in place of a policy."""
