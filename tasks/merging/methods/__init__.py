"""One merge method per file, each with its paper."""
