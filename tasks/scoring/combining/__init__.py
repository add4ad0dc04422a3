"""Ensembles over staged logits: one distribution per example from those of several members, on the CPU in seconds."""

from amalgam.tasks.scoring.combining.combiners import (
    COMBINERS,
    AwareNet,
    Combination,
    Combiner,
    EntropyConfidence,
    FittedLogits,
    FittedProbabilities,
    MajorityVote,
    MeanLogits,
    MeanProbabilities,
    TemperatureScaled,
)
from amalgam.tasks.scoring.combining.mixture import Mixture
from amalgam.tasks.scoring.combining.pseudo_labels import PseudoLabels

__all__ = [
    "COMBINERS",
    "AwareNet",
    "Combination",
    "Combiner",
    "EntropyConfidence",
    "FittedLogits",
    "FittedProbabilities",
    "MajorityVote",
    "MeanLogits",
    "MeanProbabilities",
    "Mixture",
    "PseudoLabels",
    "TemperatureScaled",
]
