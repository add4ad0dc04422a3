"""Which units each axis of each parameter of a network carries; activations; cost."""
