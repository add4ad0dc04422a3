"""Steps of robust fine-tuning of CLIP: backbones, features, autoencoders, fine-tuning, tests, reports."""
