"""The kinds of steps: each loads its inputs, calls `tasks`, and saves what comes out."""
