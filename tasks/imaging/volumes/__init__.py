"""Translate layered volumes, such as OCT to OCTA, under the supervision of their layers' projections (XOCT, 2025)."""
