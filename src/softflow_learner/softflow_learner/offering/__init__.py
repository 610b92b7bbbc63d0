"""What the learner offers to robots, and what becomes of it."""
