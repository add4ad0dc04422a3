"""Units that act alike become one: clusters of all members' units."""
