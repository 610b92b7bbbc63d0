"""What `./softflow` does before any third-party package exists: standard library only."""
