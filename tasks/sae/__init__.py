"""Sparse autoencoders on features: rules as values, training of many at once, and what they are worth."""

from typing import Any

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


def __getattr__(name: str) -> Any:
    # The engine needs torch, rules as values do not: plans and help pages import only the latter.
    import importlib

    homes = {"Codes": "codes", "SparseAutoencoder": "autoencoder", "unit_norm": "autoencoder"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
