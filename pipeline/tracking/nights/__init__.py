"""Nights, schedules of them, and what is kept of them."""
