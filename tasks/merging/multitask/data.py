"""What a task is trained, chosen and tested on, in the shape of its base, and the accuracy of a network there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.loading import Indices, batches
from amalgam.tasks.data.opening import held_out
from amalgam.tasks.data.pixels import changed, enlarged, with_channels
from amalgam.tasks.merging.multitask.heads import encoder_state, fit_head, with_encoder
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.scoring.logits import predict

BATCH_SIZE = 256
Shape = tuple[int, int, int]


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


def open_task(task: TaskSpec, part: Literal["train", "test"], shape: Shape, root: Path | None = None) -> Images:
    """Its training or test images, uint8 of `shape` (channels, side, side). Raises ValueError as `load` does."""
    images = load(task.data, part, root)
    channels, height, width = shape
    if images.shape[1:] != (height, width):
        images = enlarged(images, height)
    if images.shape[0] != channels:
        images = with_channels(images, channels)
    return changed(images, lambda pixels, _: _moved(pixels, task), (task.name,))


def _moved(pixels: Tensor, task: TaskSpec) -> Tensor:
    pixels = pixels.flip(3) if task.mirrored else pixels
    pixels = torch.rot90(pixels, task.turns, (2, 3))
    return 255 - pixels if task.inverted else pixels
