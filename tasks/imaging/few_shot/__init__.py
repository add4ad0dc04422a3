"""Classifiers of a few labelled and many unlabelled images: translated images (SPARSE, 2025) beside plainer ways."""
