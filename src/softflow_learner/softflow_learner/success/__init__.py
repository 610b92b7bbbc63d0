"""Success from pictures: a classifier that learns from labelled bags, says how sure it is, and rewards others."""
