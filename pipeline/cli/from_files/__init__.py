"""Commands from files to files, at once: no store of steps and no Ray."""
