"""How a robot comes by new weights."""
