"""The learner: replay, losses, agent, the four stages and checkpoints. Runs on any machine."""
