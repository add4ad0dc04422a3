"""The error of a training that diverged: what it had reached before is worth keeping."""


class Diverged(ValueError):
    """A non-finite loss; other settings may avoid it."""
