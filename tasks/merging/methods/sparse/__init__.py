"""Task vectors with few entries."""
