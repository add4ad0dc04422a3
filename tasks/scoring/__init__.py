"""Scores of predictions with confidence intervals, comparisons and choices made by them."""
