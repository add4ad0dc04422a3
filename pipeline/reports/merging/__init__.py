"""The report of merging: one table of methods, and sentences on what it shows."""
