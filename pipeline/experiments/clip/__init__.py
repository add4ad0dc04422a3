"""Experiments on robust fine-tuning of CLIP."""
