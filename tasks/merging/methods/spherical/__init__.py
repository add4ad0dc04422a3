"""Methods that average directions and lengths apart."""
