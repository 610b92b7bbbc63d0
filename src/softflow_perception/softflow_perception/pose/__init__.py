"""The pose node: pictures -> poses of objects with tags."""
