"""Episodes from and to other formats. Nothing here runs on the robot."""
