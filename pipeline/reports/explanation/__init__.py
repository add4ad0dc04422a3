"""The page that explains what fine-tuning changed."""
