"""Steps of combining: stage logits of members, fit combiners to them, and test these."""
