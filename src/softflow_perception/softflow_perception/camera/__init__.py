"""The camera node: pictures of a device, a recording or the simulated scene, on the same topics."""
