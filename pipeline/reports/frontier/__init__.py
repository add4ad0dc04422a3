"""The report of fusion: accuracy against cost."""
