"""Weights of members, for any linear merge."""
