"""Experiments on networks with a common start."""
