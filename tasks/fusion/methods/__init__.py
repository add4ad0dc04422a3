"""Matching methods as values: each is one small class, and one name in `METHODS` for the command line."""

from amalgam.tasks.fusion.fitting.config import Refit, Target
from amalgam.tasks.fusion.methods.budget import Budget
from amalgam.tasks.fusion.methods.clustering.interpolation import NeuronInterpolation
from amalgam.tasks.fusion.methods.clustering.ward import Lloyd, StochasticWard, Ward
from amalgam.tasks.fusion.methods.method import Cost, Members, Method
from amalgam.tasks.fusion.methods.partial_ot import Assignment, Identity, PartialOT
from amalgam.tasks.fusion.methods.pruning.deletion import (
    FisherPruning,
    MagnitudePruning,
    NeuronTransplantation,
    SpreadPruning,
    TaylorPruning,
)
from amalgam.tasks.fusion.methods.pruning.transported import IntraFusion, TransportedPruning
from amalgam.tasks.fusion.methods.transport import Transport

__all__ = [
    "METHODS",
    "Assignment",
    "Budget",
    "Cost",
    "FisherPruning",
    "Identity",
    "IntraFusion",
    "Lloyd",
    "MagnitudePruning",
    "Members",
    "Method",
    "NeuronInterpolation",
    "NeuronTransplantation",
    "PartialOT",
    "Refit",
    "SpreadPruning",
    "StochasticWard",
    "Target",
    "TaylorPruning",
    "Transport",
    "TransportedPruning",
    "Ward",
]

METHODS: tuple[type[Method], ...] = (
    Identity,
    Assignment,
    PartialOT,
    Transport,
    Budget,
    Ward,
    Lloyd,
    StochasticWard,
    NeuronInterpolation,
    MagnitudePruning,
    SpreadPruning,
    TaylorPruning,
    FisherPruning,
    TransportedPruning,
    IntraFusion,
    NeuronTransplantation,
)
"""Every method, for names on the command line, property tests and documentation."""
