"""Means of weights and sums of task vectors."""
