"""Perception: sensors aligned by stamp into one observation vector. Cameras come with a later version."""
