"""The keyboard of a terminal as a teleoperation device."""
