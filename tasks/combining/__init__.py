"""Ensembles over staged logits: one distribution per example from those of several members, on the CPU in seconds."""

from amalgam.tasks.combining.combiners import (
    COMBINERS,
    AwareNet,
    Combiner,
    EntropyConfidence,
    FittedLogits,
    FittedProbabilities,
    MajorityVote,
    MeanLogits,
    MeanProbabilities,
    TemperatureScaled,
)
from amalgam.tasks.combining.mixture import Mixture
from amalgam.tasks.combining.pseudo_labels import PseudoLabels

__all__ = [
    "COMBINERS",
    "AwareNet",
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
