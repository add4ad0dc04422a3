"""Types of flags that take several values, given with commas."""

Floats = tuple[float, ...]
Ints = tuple[int, ...]
Texts = tuple[str, ...]
