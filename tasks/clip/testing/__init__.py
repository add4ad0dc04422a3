"""Test sets and suites."""
