"""What a task is trained, chosen and tested on, and what a network is worth there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices, batches
from amalgam.tasks.data.opening import held_out
from amalgam.tasks.merging.multitask.heads import encoder_state, fit_head, with_encoder
from amalgam.tasks.merging.multitask.pictures import Shape, open_task
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.scoring.logits import predict

BATCH_SIZE = 256


@dataclass(frozen=True)
class TaskData:
    """The pictures of a task."""

    train: Images
    pool: Indices
    """Positions in `train` that are trained on."""
    validation: Indices
    """Positions in `train` that epochs and merges are chosen by."""
    test: Images

    def batches(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images with their labels, the first `most` of an order drawn from nothing but their number."""
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(0))
        chosen = torch.as_tensor(self.pool)[order[:most]]
        return ((batch.images, batch.labels) for batch in batches(self.train, chosen, BATCH_SIZE))


def task_data(task: TaskSpec, shape: Shape, validation_share: float, seed: int, root: Path | None) -> TaskData:
    """The pictures of a task in the shape of the base. Raises ValueError as `load` does."""
    train, test = open_task(task, "train", shape, root), open_task(task, "test", shape, root)
    return TaskData(train, *held_out(train, validation_share, seed), test)


def headed(base: nn.Module, module: nn.Module, parts: TaskData) -> nn.Module:
    """`module` with the encoder of `base`, its head fitted on the base's features of the task and fixed."""
    with_encoder(module, encoder_state(base))
    fit_head(module, parts.batches(), len(parts.train.class_names))
    return module


def accuracy(module: nn.Module, images: Images, indices: Indices | None = None, device: str = "cpu") -> float:
    """Share of the images, or of those at `indices`, that the network recognises."""
    chosen = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
    hits = predict(module.to(device), images, chosen, device=device).argmax(1) == images.labels[chosen]
    return float(hits.double().mean())
