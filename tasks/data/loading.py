"""Batches of scaled images: in order and untouched for evaluation, or shuffled and augmented for training.

Batches are gathered as tensors, so a set in memory costs one index operation a batch rather than one a picture.
Shapes: (b, c, h, w) = batch, channels, height, width.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amalgam.tasks.data.images import Images
from amalgam.tasks.data.pixels import Scale
from amalgam.tasks.data.views import View, margin_of, shifted

Augmentation = Literal["crop_flip"] | View
"""Pictures shifted and mirrored at random, or one of the views that can be made again."""
Indices = Tensor | np.ndarray | Sequence[int]
PLAIN = View()


class Batch(NamedTuple):
    """Positions in the data set (on the CPU), images and labels (on the device)."""

    ids: Tensor
    images: Tensor
    labels: Tensor


def normalise(pixels: Tensor, mean: Scale = 0.5, std: Scale = 0.5) -> Tensor:
    """Images in float32, ((pixels / 255) - mean) / std, one mean and std for all channels or for each."""
    centre, spread = _per_channel(mean, pixels.device), _per_channel(std, pixels.device)
    return pixels.float().mul_(1 / (255 * spread)).sub_(centre / spread)


def _per_channel(value: Scale, device: torch.device) -> Tensor | float:
    return torch.tensor(value, device=device).reshape(-1, 1, 1) if isinstance(value, tuple) else value


def batches(
    images: Images, indices: Indices, batch_size: int, *, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The images at `indices`, in that order, unaugmented; the last batch may be smaller."""
    return view_batches(images, indices, batch_size, view=PLAIN, device=device)


def view_batches(
    images: Images, indices: Indices, batch_size: int, *, view: View, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The images at `indices`, in that order, as they are seen in the epochs of `view`; the last batch may be smaller.

    `TrainConfig.view_number` says which view an epoch sees.
    """
    for ids, pixels in _read(images, torch.as_tensor(indices, dtype=torch.long).split(batch_size)):
        yield _batch(images, ids, torch.device(device), view(ids, pixels))


def shuffled_batches(
    images: Images,
    indices: Indices,
    batch_size: int,
    *,
    generator: torch.Generator,
    augment: Augmentation = PLAIN,
    device: torch.device | str = "cpu",
    part: Callable[[int], slice] = slice,
) -> Iterator[Batch]:
    """One epoch: every index once, in an order drawn from `generator`, which also draws "crop_flip".

    A last batch of a single image is left out: batch norm has no variance over one example. Of every batch of
    `count` images only those at `part(count)` are read: by default all.
    """
    order = torch.as_tensor(indices, dtype=torch.long)
    order = order[torch.randperm(len(order), generator=generator)]
    whole = order.split(batch_size)[: num_batches(len(order), batch_size)]
    parts = [ids[part(len(ids))] for ids in whole]
    for every, (ids, pixels) in zip(whole, _read(images, parts), strict=True):
        if isinstance(augment, View):
            shown = augment(ids, pixels)
        else:
            shown = crop_flip(pixels, generator, len(every), part(len(every)))
        yield _batch(images, ids, torch.device(device), shown)


def read_batch(
    images: Images, ids: Tensor, augment: Augmentation, generator: torch.Generator, device: torch.device | str
) -> Batch:
    """The images at positions `ids`, augmented; `generator` draws "crop_flip"."""
    pixels = images.batch(ids)
    shown = augment(ids, pixels) if isinstance(augment, View) else crop_flip(pixels, generator)
    return _batch(images, ids, torch.device(device), shown)


def num_batches(num_images: int, batch_size: int) -> int:
    """The number of shuffled batches in an epoch."""
    return max(1, (num_images + batch_size - 2) // batch_size) if batch_size > 1 else num_images


def crop_flip(
    pixels: Tensor, generator: torch.Generator, count: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Each picture shifted by its own few pixels, black filling the gap, and mirrored or not.

    They may be a part of `count` pictures for all of which `generator` draws.
    """
    count = count or len(pixels)
    down, right = torch.randint(2 * margin_of(pixels) + 1, (2, count), generator=generator)[:, part]
    cropped = shifted(pixels, down, right)
    mirrored = torch.rand(count, generator=generator)[part] < 0.5
    return torch.where(mirrored[:, None, None, None], cropped.flip(3), cropped)


def _read(images: Images, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices and their pixels; pictures in files are decoded one batch ahead, while the last one is computed on."""
    if not images.is_decoded:
        yield from ((ids, images.batch(ids)) for ids in parts)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(images.batch, parts[0])
        for ids, following in zip_longest(parts, parts[1:]):
            pixels = coming.result()
            if following is not None:
                coming = reader.submit(images.batch, following)
            yield ids, pixels


def _batch(images: Images, ids: Tensor, device: torch.device, pixels: Tensor) -> Batch:
    labels = images.labels[ids]
    if device.type == "cuda":  # pinned copies do not wait for the kernels that are still running
        pixels, labels = pixels.pin_memory(), labels.pin_memory()
    moved = pixels.to(device, non_blocking=True)
    return Batch(ids, normalise(moved, images.mean, images.std), labels.to(device, non_blocking=True))


class Repeatable:
    """Input batches of some images that can be streamed again and again."""

    def __init__(self, images: Images, indices: Indices, batch_size: int, device: str) -> None:
        self.images, self.indices, self.batch_size, self.device = images, indices, batch_size, device

    def batches(self) -> Iterator[Batch]:
        """Ids, inputs and labels, batch by batch."""
        return batches(self.images, self.indices, self.batch_size, device=self.device)

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self.batches())


def example(images: Images, device: str) -> Tensor:
    """Two images as the network sees them, to trace and time it with."""
    return next(iter(Repeatable(images, np.arange(2), 2, device)))
