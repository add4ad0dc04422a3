"""Fuse many trained networks into one of any size, and fine-tune CLIP robustly.

The names below are what a program imports; each is loaded when it is first used, so that importing `amalgam` costs
nothing and the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amalgam.pipeline.store.checkpoints import load_model, save_model
    from amalgam.tasks.fusion import (
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
        Refit,
        SpreadPruning,
        StochasticWard,
        TaylorPruning,
        Transport,
        TransportedPruning,
        Ward,
    )
    from amalgam.tasks.fusion.fusing import fuse
    from amalgam.tasks.fusion.methods.classes import class_union
    from amalgam.tasks.merging.merging import merge
    from amalgam.tasks.merging.methods.registry import (
        TSVM,
        Average,
        Breadcrumbs,
        Dare,
        EpiMer,
        Fisher,
        GreedySoup,
        IsoC,
        IsoCTS,
        Karcher,
        KnOTS,
        ModelStock,
        RegMean,
        RegMeanPlusPlus,
        Slerp,
        TaskArithmetic,
        Ties,
        WiSE,
        Wudi,
    )
    from amalgam.tasks.merging.staged import Statistics
    from amalgam.tasks.merging.statistics.staging import stage

__version__ = "0.2.0"

__all__ = [
    "TSVM",
    "Assignment",
    "Average",
    "Breadcrumbs",
    "Budget",
    "Dare",
    "EpiMer",
    "Fisher",
    "FisherPruning",
    "GreedySoup",
    "Identity",
    "IntraFusion",
    "IsoC",
    "IsoCTS",
    "Karcher",
    "KnOTS",
    "Lloyd",
    "MagnitudePruning",
    "Method",
    "ModelStock",
    "NeuronInterpolation",
    "NeuronTransplantation",
    "PartialOT",
    "Refit",
    "RegMean",
    "RegMeanPlusPlus",
    "Slerp",
    "SpreadPruning",
    "Statistics",
    "StochasticWard",
    "TaskArithmetic",
    "TaylorPruning",
    "Ties",
    "Transport",
    "TransportedPruning",
    "Ward",
    "WiSE",
    "Wudi",
    "class_union",
    "fuse",
    "load_model",
    "merge",
    "save_model",
    "stage",
]

HOMES = (
    "amalgam.tasks.merging",
    "amalgam.tasks.merging.methods.registry",
    "amalgam.tasks.fusion",
    "amalgam.pipeline.store.checkpoints",
)
"""The modules that the public names come from; the first that has a name gives it."""


def __getattr__(name: str) -> Any:
    for home in HOMES if name in __all__ else ():
        if hasattr(package := import_module(home), name):
            return getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
