"""A human takes the hand: joint targets, gamepad and keyboard become action chunks."""
