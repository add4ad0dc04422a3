"""Federations: clients that train on data of their own, and a server that merges their networks in rounds."""
