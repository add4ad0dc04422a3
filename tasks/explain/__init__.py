"""What fine-tuning changed in a CLIP classifier, described by the latents of one sparse autoencoder."""
