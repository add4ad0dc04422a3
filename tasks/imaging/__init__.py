"""Medical imaging: layered volumes seen from above, and classifiers of a few labelled images."""
