"""Evaluate one network of a fusion experiment on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from amalgam.pipeline.engine.step import Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.scoring.results import Network

if TYPE_CHECKING:
    from torch import Tensor, nn


def evaluated(
    network: Network, module: nn.Module, data: DataSpec, allowed: Mapping[str, Tensor], work: Workspace
) -> Metrics:
    """Scores and costs on the test split, written as results; `allowed` is False at structural zeros."""
    import numpy as np

    from amalgam.pipeline.store.measures import recorded, test_results
    from amalgam.tasks.data.images import load
    from amalgam.tasks.data.loading import example
    from amalgam.tasks.scoring.logits import predict
    from amalgam.tasks.tracing.cost import cost_of

    images = load(data, "test", work.data_root)
    logits = predict(module, images, np.arange(len(images)), device=work.device)
    cost = cost_of(module, example(images, work.device), allowed)
    results = test_results(network, logits, images, cost)
    return {**recorded(results, work.out), "data_fingerprint": images.fingerprint}
