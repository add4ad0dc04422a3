"""Sparse autoencoders on features: rules as values, training of many at once, and what they are worth."""

from amalgam.lazy import lazy
from amalgam.tasks.sae.config import (
    REFERENCE_RECIPE,
    SPARSITIES,
    BatchTopK,
    FeatureInfo,
    JumpReLU,
    Matryoshka,
    SAEInfo,
    SAESpec,
    SAETrainConfig,
    TopK,
)

__all__ = [
    "REFERENCE_RECIPE",
    "SPARSITIES",
    "BatchTopK",
    "Codes",
    "FeatureInfo",
    "JumpReLU",
    "Matryoshka",
    "SAEInfo",
    "SAESpec",
    "SAETrainConfig",
    "SparseAutoencoder",
    "TopK",
    "unit_norm",
]

HOMES = {"Codes": "codes", "SparseAutoencoder": "autoencoder", "unit_norm": "autoencoder"}
__getattr__ = lazy(__name__, HOMES)
