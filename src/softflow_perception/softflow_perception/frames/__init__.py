"""Object and cameras as tf frames."""
