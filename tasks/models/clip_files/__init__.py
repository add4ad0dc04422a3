"""What comes with CLIP in files: weights, tokens of captions, and prompts."""
