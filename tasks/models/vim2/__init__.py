"""MambaMixer (Behrouz et al. 2024): selective token and channel mixers, ViM2 for images, TSM2 for time series."""
