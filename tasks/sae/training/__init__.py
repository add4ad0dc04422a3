"""Training of sparse autoencoders, many at once."""
