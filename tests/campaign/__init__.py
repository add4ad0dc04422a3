"""What happens to a root when things break, counted: kills, flipped bits, two drivers at once, a thousand steps."""
