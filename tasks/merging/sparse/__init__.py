"""Sparse fine-tuning: which entries of a network are trained, chosen by scores, and what scores them."""
