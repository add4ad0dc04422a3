"""Experiments on fusion."""
