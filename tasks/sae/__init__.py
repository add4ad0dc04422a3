"""Sparse autoencoders on features: rules as values, training of many at once, and what they are worth."""

from amalgam.lazy import lazy
from amalgam.tasks.sae.config import REFERENCE_RECIPE, FeatureInfo, SAEInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import SPARSITIES, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK

__all__ = [
    "REFERENCE_RECIPE",
    "SPARSITIES",
    "BatchTopK",
    "Codes",
    "FeatureInfo",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "ReLU",
    "SAEInfo",
    "SAESpec",
    "SAETrainConfig",
    "SparseAutoencoder",
    "TopK",
    "Transcoder",
    "unit_norm",
]

HOMES = {"Codes": "codes", "SparseAutoencoder": "autoencoder", "Transcoder": "transcoder", "unit_norm": "autoencoder"}
__getattr__ = lazy(__name__, HOMES)
