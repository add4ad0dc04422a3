"""What each kind of recorded operation says about units: one small function per kind."""
