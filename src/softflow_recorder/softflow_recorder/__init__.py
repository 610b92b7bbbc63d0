"""Recorder: one bag an episode, read back as arrays, and handed over to the learner exactly once."""
