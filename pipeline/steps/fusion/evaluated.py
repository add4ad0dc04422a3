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
    network: Network,
    module: nn.Module,
    data: DataSpec,
    allowed: Mapping[str, Tensor],
    work: Workspace,
    *,
    executed: nn.Module | None = None,
) -> Metrics:
    """Scores, costs and predictions on the test split, all written; `allowed` is False at structural zeros.

    How pictures are fed and what classes are called is written beside them. `executed` is the same function in the
    form whose storage and time count, such as one of blocks.
    """
    import numpy as np

    from amalgam.pipeline.store.checkpoints import save_pictures
    from amalgam.pipeline.store.measures import tested
    from amalgam.tasks.data.images import load
    from amalgam.tasks.data.loading import example
    from amalgam.tasks.scoring.logits import predict
    from amalgam.tasks.tracing.cost import cost_of

    images = load(data, "test", work.data_root)
    save_pictures(images, work.out)
    logits = predict(module, images, np.arange(len(images)), device=work.device)
    form = executed or module
    kept = {name: allowed[name] for name, _ in form.named_parameters() if name in allowed}
    cost = cost_of(form, example(images, work.device), kept)
    return tested(network, logits, images, cost, work.out)
