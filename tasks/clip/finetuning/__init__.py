"""Robust fine-tuning: features, drift, regularisers, weights in between."""
