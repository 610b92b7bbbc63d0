"""Success from pictures while the robot runs: the classifier's network, its file, and the node that judges by it."""
