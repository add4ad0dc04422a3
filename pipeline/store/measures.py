"""What steps that test networks write down: rows of results, and the same numbers by flat name for their records."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from amalgam.pipeline.store.tables.results import write_results
from amalgam.tasks.data.images import Images
from amalgam.tasks.scoring.logits import score
from amalgam.tasks.scoring.results import COST, Network, Result, flat
from amalgam.tasks.tracing.cost import Cost

TEST = "test"


def test_results(network: Network, logits: Tensor, images: Images, cost: Cost) -> list[Result]:
    """Scores of logits on the test images, and what the network costs."""
    scores = score(logits, torch.as_tensor(images.labels), len(images.class_names))
    found = [(TEST, name, value) for name, value in scores.items()]
    found += [(COST, name, float(value)) for name, value in asdict(cost).items()]
    return [Result(network, role, None, metric, value) for role, metric, value in found]


def recorded(results: Sequence[Result], folder: Path, by: Sequence[str] = ()) -> dict[str, float]:
    """Write the rows of a step; their values by flat name (`test/accuracy`, `cost/flops`), which MLflow shows.

    `by` names the settings by which a step's networks differ.
    """
    write_results(results, folder)
    return flat(results, by)
