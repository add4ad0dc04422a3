"""Commands for those who operate clusters and nightly runs."""
