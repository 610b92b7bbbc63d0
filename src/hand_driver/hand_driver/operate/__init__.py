"""Movements as actions with feedback and cancel: home, calibrate, tension."""
