"""A small CLIP and the world it is pre-trained on."""
