"""CLIP: zero-shot heads, robust fine-tuning by what a sparse autoencoder sees, and weights in between."""
