"""The speed bounds, each measured in a process of its own: `make bench`, or `python -m benchmarks`."""
