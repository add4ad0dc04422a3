"""Steps, their fingerprints, and what builds them: in this process or on Ray."""
