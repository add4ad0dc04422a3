"""What steps that test networks write down: rows of results, answers by image, and the numbers for their records."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from amalgam.pipeline.store.tables.predictions import PREDICTIONS, Answers, write_predictions
from amalgam.pipeline.store.tables.results import write_results
from amalgam.tasks.data.images import Images
from amalgam.tasks.scoring.logits import score
from amalgam.tasks.scoring.metrics import Predictions
from amalgam.tasks.scoring.results import COST, Network, Result, flat
from amalgam.tasks.tracing.cost import Cost

TEST = "test"


def tested(network: Network, logits: Tensor, images: Images, cost: Cost, folder: Path) -> dict[str, float | str]:
    """Write scores of logits on all test images, what the network costs and what it answers; the summary of a step."""
    scores = score(logits, torch.as_tensor(images.labels), len(images.class_names))
    found = [(TEST, name, value) for name, value in scores.items()]
    found += [(COST, name, float(value)) for name, value in asdict(cost).items()]
    keep_answers({network: logits}, torch.as_tensor(images.labels), folder)
    results = [Result(network, role, None, metric, value) for role, metric, value in found]
    return {**recorded(results, folder), "data_fingerprint": images.fingerprint}


def keep_answers(networks: Mapping[Network, Tensor], labels: Tensor, folder: Path) -> None:
    """Write what networks predict of all test images, from their logits (n, classes)."""
    ids = torch.arange(len(labels))
    kept = (Answers(TEST, TEST, one.label, Predictions.of(logits, labels, ids)) for one, logits in networks.items())
    write_predictions(folder / PREDICTIONS, kept)


def recorded(results: Sequence[Result], folder: Path, by: Sequence[str] = ()) -> dict[str, float]:
    """Write the rows of a step; their values by flat name (`test/accuracy`, `cost/flops`), which MLflow shows.

    `by` names the settings by which a step's networks differ.
    """
    write_results(results, folder)
    return flat(results, by)
