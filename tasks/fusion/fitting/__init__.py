"""Closed-form fits of layers to targets: sums over rows, and networks run from layer to layer."""
