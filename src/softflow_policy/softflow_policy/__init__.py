"""The chunk policy: a conditional normalizing flow over whole action chunks, and the critic that ranks them."""
