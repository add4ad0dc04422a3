"""Units are deleted by importance, and what they did is lost or carried to the units that stay."""
