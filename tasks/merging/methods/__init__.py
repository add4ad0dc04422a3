"""Merge methods as values, by family; each class names its paper, and `registry` lists them."""
