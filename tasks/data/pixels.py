"""Labelled images as one value, from a tensor in memory, and changes of images when they are read.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.tasks.data.catalogue import DataSpec, Interpolation

Scale = float | tuple[float, ...]
PartName = Literal["train", "test"]
CHANNELS = (1, 3)  # of pictures: grey and colour


@dataclass(frozen=True)
class Images:
    """Labelled images of one shape; pixels are read on demand."""

    batch: Callable[[Tensor], Tensor]
    """The images at indices (b,), uint8 (b, c, h, w)."""
    labels: Tensor
    """Classes as int64, (n,)."""
    class_names: tuple[str, ...]
    """What each class is called."""
    shape: tuple[int, int, int]
    """Channels, height, width."""
    digest: Callable[[], str]
    """Computes the fingerprint."""
    mean: Scale = 0.5
    """What is subtracted from pixels in [0, 1]; see `DataSpec.mean`."""
    std: Scale = 0.5
    """What the difference is divided by; see `DataSpec.std`."""
    groups: Tensor | None = None
    """Group, such as the region, of each image, int64, (n,); -1 of none."""
    group_names: tuple[str, ...] = ()
    """What each group is called."""
    sources: Tensor | None = None
    """Numbers of what each image was made from (subjects, cameras, digits), int64, (n, sources): images that share one
    are never on both sides of a split. None where every image is its own."""
    num_skipped: int = 0
    """Images that were left out because they cannot be decoded."""
    num_held_out: int = 0
    """The last ones, if the set itself says which are held out for choices."""
    is_decoded: bool = False
    """Whether reading takes so long, as from files, that the next batch is best read while one computes."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the content as it was read, computed when first needed."""
        return self.digest()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def names_of_groups(self, indices: Tensor) -> tuple[str | None, ...]:
        """What the groups of the images at `indices` are called, None of none; empty of a set without groups."""
        if self.groups is None:
            return ()
        return tuple(self.group_names[group] if group >= 0 else None for group in self.groups[indices].tolist())

    @property
    def pixels(self) -> Tensor:
        """All images, uint8 (n, c, h, w), read again: for sets that are small enough."""
        return self.batch(torch.arange(len(self)))


def in_memory(
    pixels: Tensor, labels: Tensor, class_names: tuple[str, ...], mean: Scale = 0.5, std: Scale = 0.5
) -> Images:
    """A whole set as one uint8 tensor (n, c, h, w). Raises ValueError unless there is a label for each image."""
    assert pixels.dtype == torch.uint8 and pixels.dim() == 4 and labels.dtype == torch.int64
    if len(pixels) != len(labels):
        raise ValueError(f"a data set needs a label for each image: got {len(pixels)} and {len(labels)}")

    @cache
    def fingerprint() -> str:
        header = repr((tuple(pixels.shape), class_names)).encode()
        return digest(header, pixels.numpy().reshape(-1).data, labels.numpy().tobytes())

    _, channels, height, width = pixels.shape
    shape = channels, height, width
    return Images(lambda ids: pixels.index_select(0, ids), labels, class_names, shape, fingerprint, mean, std)


def from_arrays(spec: DataSpec, pixels: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> Images:
    """Pixels (n, h, w), (n, h, w, c) or (n, c, h, w), resized: at once if that makes them fewer."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.shape[1] not in CHANNELS:
        tensor = tensor.movedim(-1, 1).contiguous()
    size = spec.image_size
    shrinks = size is not None and size * size <= tensor.shape[2] * tensor.shape[3]
    if size is not None and shrinks and len(tensor):
        tensor = resized(tensor, size, spec.interpolation)
    images = in_memory(tensor, torch.from_numpy(labels.astype(np.int64)), class_names, spec.mean, spec.std)
    return images if size is None or shrinks else enlarged(images, size, spec.interpolation)


def changed(
    images: Images, change: Callable[[Tensor, Tensor], Tensor], settings: Sequence[Any], side: int | None = None
) -> Images:
    """The images, each `change(pixels, indices)` whenever it is read; nothing is kept.

    `settings` say in the fingerprint what the change is; `side` is that of the squares it makes, in pixels, if it does.
    """
    return replace(
        images,
        batch=lambda ids: change(images.batch(ids), ids),
        shape=images.shape if side is None else (images.shape[0], side, side),
        digest=lambda: digest(repr((images.fingerprint, *settings)).encode()),
    )


def taken(images: Images, places: Tensor) -> Images:
    """The images at some places (n,), in that order."""
    groups, sources = (None if of is None else of[places] for of in (images.groups, images.sources))
    return replace(
        images,
        batch=lambda ids: images.batch(places[ids]),
        labels=images.labels[places],
        groups=groups,
        sources=sources,
        num_held_out=0,
        digest=lambda: digest(repr((images.fingerprint, places.tolist())).encode()),
    )


def followed(images: Images, held_out: Images) -> Images:
    """The images, and after them others of the same set that are held out."""
    first = len(images)

    def batch(ids: Tensor) -> Tensor:
        last = ids >= first
        pixels = torch.empty(len(ids), *images.shape, dtype=torch.uint8)
        for of, chosen, start in ((images, ~last, 0), (held_out, last, first)):
            if chosen.any():
                pixels[chosen] = of.batch(ids[chosen] - start)
        return pixels

    groups, sources = (
        None if one is None or other is None else torch.cat([one, other])
        for one, other in ((images.groups, held_out.groups), (images.sources, held_out.sources))
    )
    return replace(
        images,
        batch=batch,
        labels=torch.cat([images.labels, held_out.labels]),
        groups=groups,
        sources=sources,
        num_skipped=images.num_skipped + held_out.num_skipped,
        num_held_out=len(held_out),
        digest=lambda: digest(images.fingerprint.encode(), held_out.fingerprint.encode()),
    )


def enlarged(images: Images, size: int, interpolation: Interpolation = "bilinear") -> Images:
    """Squares of a side in pixels, made whenever they are read: kept so large they might not fit in memory."""
    return changed(images, lambda pixels, _: resized(pixels, size, interpolation), (size, interpolation), size)


def with_channels(images: Images, channels: int, mean: Scale = 0.5, std: Scale = 0.5) -> Images:
    """Grey pictures in colour or the mean of colours, where channels differ; scaled by `mean` and `std`."""

    def change(pixels: Tensor, _: Tensor) -> Tensor:
        if pixels.shape[1] == 1:
            return pixels.expand(-1, channels, -1, -1)
        return pixels.float().mean(1, keepdim=True).round().to(torch.uint8)

    other = images if images.shape[0] == channels else changed(images, change, (channels,))
    return replace(other, shape=(channels, *images.shape[1:]), mean=mean, std=std)


def resized(pixels: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Images uint8 (b, c, h, w) as squares of a side in pixels, with antialiasing."""
    return interpolate(pixels, (size, size), mode=interpolation, antialias=True)


def digest(*parts: bytes | memoryview) -> str:
    """16 hexadecimal digits that stand for the content of `parts`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]
