"""The pictures of a task, in the shape that the base takes."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.pixels import changed, enlarged
from amalgam.tasks.merging.multitask.spec import TaskSpec

Shape = tuple[int, int, int]


def open_task(task: TaskSpec, part: Literal["train", "test"], shape: Shape, root: Path | None = None) -> Images:
    """Its training or test images, uint8 of `shape` (channels, side, side). Raises ValueError as `load` does."""
    images = load(task.data, part, root)
    channels, height, width = shape
    if images.shape[1:] != (height, width):
        images = enlarged(images, height)
    if images.shape[0] != channels:
        other = replace(
            changed(images, lambda pixels, _: _with_channels(pixels, channels), (channels,)), mean=0.5, std=0.5
        )
        images = replace(other, shape=shape)
    return changed(images, lambda pixels, _: _moved(pixels, task), (task.name,))


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Grey pictures in colour, or the mean of colours."""
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    return pixels.float().mean(1, keepdim=True).round().to(torch.uint8)


def _moved(pixels: Tensor, task: TaskSpec) -> Tensor:
    pixels = pixels.flip(3) if task.mirrored else pixels
    pixels = torch.rot90(pixels, task.turns, (2, 3))
    return 255 - pixels if task.inverted else pixels
