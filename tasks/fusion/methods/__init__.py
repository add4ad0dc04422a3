"""Matching methods as values: each is one small class, and one name in `METHODS` for the command line."""

from amalgam.tasks.fusion.fitting.config import Refit, Target
from amalgam.tasks.fusion.methods.budget import Budget
from amalgam.tasks.fusion.methods.clustering import Lloyd, Ward
from amalgam.tasks.fusion.methods.method import Cost, Members, Method
from amalgam.tasks.fusion.methods.partial_ot import Assignment, Identity, PartialOT
from amalgam.tasks.fusion.methods.pruning import MagnitudePruning, NeuronTransplantation, SpreadPruning
from amalgam.tasks.fusion.methods.transport import IntraFusion, TransportedPruning

__all__ = [
    "METHODS",
    "Assignment",
    "Budget",
    "Cost",
    "Identity",
    "IntraFusion",
    "Lloyd",
    "MagnitudePruning",
    "Members",
    "Method",
    "NeuronTransplantation",
    "PartialOT",
    "Refit",
    "SpreadPruning",
    "Target",
    "TransportedPruning",
    "Ward",
]

METHODS: tuple[type[Method], ...] = (
    Identity,
    Assignment,
    PartialOT,
    Budget,
    Ward,
    Lloyd,
    MagnitudePruning,
    SpreadPruning,
    TransportedPruning,
    IntraFusion,
    NeuronTransplantation,
)
"""Every method, for names on the command line, property tests and documentation."""
