"""Steps of medical imaging: few-shot classifiers, translated volumes."""
