"""What people and tools may tell the driver: services, and joint targets beside chunks."""
