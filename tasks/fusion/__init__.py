"""Partial fusion: match the most similar units of several networks, average those, keep the rest."""

from typing import Any

from amalgam.tasks.fusion.methods import (
    METHODS,
    Assignment,
    Budget,
    Identity,
    IntraFusion,
    Lloyd,
    MagnitudePruning,
    Method,
    NeuronTransplantation,
    PartialOT,
    Refit,
    SpreadPruning,
    TransportedPruning,
    Ward,
)

__all__ = [
    "METHODS",
    "Assignment",
    "Budget",
    "Identity",
    "IntraFusion",
    "Lloyd",
    "MagnitudePruning",
    "Method",
    "NeuronTransplantation",
    "PartialOT",
    "Refit",
    "SpreadPruning",
    "TransportedPruning",
    "Ward",
    "fuse",
    "merge",
    "recalibrate",
    "resize",
    "support",
]


def __getattr__(name: str) -> Any:
    # The engine needs torch, methods as values do not: plans and help pages import only the latter.
    import importlib

    homes = {
        "fuse": "fusing",
        "merge": "merging",
        "resize": "merging",
        "support": "merging",
        "recalibrate": "fitting.norms",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
