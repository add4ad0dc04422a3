"""Ray: the connection to a cluster, how far it grows, and trainings of several processes."""
