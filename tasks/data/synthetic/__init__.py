"""Rendered digits and photos in styles, and corruptions."""
