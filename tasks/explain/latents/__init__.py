"""Each latent on its own: its table, its card, where in images it is active, and whether it is new."""
