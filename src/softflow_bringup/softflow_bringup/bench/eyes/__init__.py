"""Cameras and the way from a picture to an observation, measured."""
