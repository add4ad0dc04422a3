"""What lies on disk: artifacts, checkpoints, rows, features, predictions."""
