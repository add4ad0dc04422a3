"""The report of robust fine-tuning."""
