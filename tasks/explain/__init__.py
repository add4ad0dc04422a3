"""What fine-tuning changed in a CLIP classifier, told in the latents of one sparse autoencoder."""
