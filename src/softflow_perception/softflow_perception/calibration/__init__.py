"""Calibration of cameras from pictures: intrinsics, and where a camera stands. Plain Python."""
