"""Partial fusion: match the most similar units of several networks, average those, keep the rest."""

from amalgam.lazy import lazy
from amalgam.tasks.fusion.fitting.config import Refit
from amalgam.tasks.fusion.methods import (
    METHODS,
    Assignment,
    Budget,
    FisherPruning,
    Identity,
    IntraFusion,
    Lloyd,
    MagnitudePruning,
    Method,
    NeuronInterpolation,
    NeuronTransplantation,
    PartialOT,
    SpreadPruning,
    StochasticWard,
    TaylorPruning,
    Transport,
    TransportedPruning,
    Ward,
)

__all__ = [
    "METHODS",
    "Assignment",
    "Budget",
    "FisherPruning",
    "Identity",
    "IntraFusion",
    "Lloyd",
    "MagnitudePruning",
    "Method",
    "NeuronInterpolation",
    "NeuronTransplantation",
    "PartialOT",
    "Refit",
    "SpreadPruning",
    "StochasticWard",
    "TaylorPruning",
    "Transport",
    "TransportedPruning",
    "Ward",
    "class_union",
    "fuse",
    "merge",
    "recalibrate",
    "resize",
    "support",
]

HOMES = {
    "fuse": "fusing",
    "class_union": "methods.classes",
    "merge": "merging",
    "resize": "rebuild.resizing",
    "support": "merging",
    "recalibrate": "fitting.norms",
}
__getattr__ = lazy(__name__, HOMES)
