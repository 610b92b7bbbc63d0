"""The hand driver: four device verbs, safety checks, chunk playback at the control rate."""
