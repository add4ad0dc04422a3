"""Ways to keep, delete or combine units, as values: each is one small file and one name in `METHODS`."""
