"""The error of a training that went astray: what it had reached before is worth keeping."""


class Diverged(ValueError):
    """A loss that is no number any more; a user can mend it with other settings."""
