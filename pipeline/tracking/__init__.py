"""Records of runs, and MLflow, which shows them."""
