"""What predictions are worth, and how sure that is."""
