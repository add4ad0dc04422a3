"""Training a network, resumably."""
