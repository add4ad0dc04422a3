"""Where the pixels of labelled images are kept: in memory as one tensor, or in files that are decoded when asked for.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.tasks.data.catalogue import Interpolation

Scale = float | tuple[float, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class InMemory:
    """A whole set as one uint8 tensor (n, c, h, w)."""

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    mean: Scale = 0.5
    std: Scale = 0.5

    def __post_init__(self) -> None:
        assert self.pixels.dtype == torch.uint8 and self.pixels.dim() == 4 and self.labels.dtype == torch.int64
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"a data set needs a label for each image: got {len(self.pixels)} and {len(self.labels)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of pixels, labels and class names."""
        header = repr((tuple(self.pixels.shape), self.class_names)).encode()
        return digest(header, self.pixels.numpy().reshape(-1).data, self.labels.numpy().tobytes())

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, uint8 (b, c, h, w)."""
        return self.pixels.index_select(0, indices)


@dataclass(frozen=True)
class Enlarged:
    """Images in memory that are made larger whenever they are asked for: kept large they would not fit."""

    small: InMemory
    size: int
    """Side of the squares they are made, in pixels."""
    interpolation: Interpolation = "bilinear"

    @property
    def labels(self) -> Tensor:
        """Classes as int64, (n,)."""
        return self.small.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""
        return self.small.class_names

    @property
    def mean(self) -> Scale:
        """What is subtracted from pixels in [0, 1]."""
        return self.small.mean

    @property
    def std(self) -> Scale:
        """What the difference is divided by."""
        return self.small.std

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.small.shape[0], self.size, self.size

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the small images and of what they are made."""
        return digest(repr((self.small.fingerprint, self.size, self.interpolation)).encode())

    def __len__(self) -> int:
        return len(self.small)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, uint8 (b, c, size, size)."""
        return resized(self.small.batch(indices), self.size, self.interpolation)


def resized(pixels: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Images uint8 (b, c, h, w) as squares of a side in pixels, with antialiasing."""
    return interpolate(pixels, (size, size), mode=interpolation, antialias=True)


@dataclass(frozen=True)
class Decoded:
    """Pictures decoded on demand, by threads: made RGB, short side resized to `size`, centre cropped to a square."""

    open: Callable[[int], Any]
    """The PIL image at a position."""
    labels: Tensor
    class_names: tuple[str, ...]
    size: int
    content: str
    """Hexadecimal digest of class names, labels and, where they are known, file names and sizes in bytes."""
    mean: Scale = 0.5
    std: Scale = 0.5
    interpolation: Interpolation = "bilinear"
    border: int = 0
    """Pixels cut off every side before anything else."""
    names: tuple[str, ...] = ()
    """Files, as messages name them; empty where they are not known."""
    groups: Tensor | None = None
    """Group, such as the region, of each picture, int64, (n,); -1 of none."""
    group_names: tuple[str, ...] = ()
    """What each group is called."""
    num_skipped: int = 0
    """Pictures that were left out because they cannot be decoded."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return 3, self.size, self.size

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the content and of what is made of it."""
        return digest(repr((self.content, self.size, self.interpolation, self.border)).encode())

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, uint8 (b, 3, size, size); as many threads decode as torch computes with.

        Raises ValueError, with the name of the picture, if one cannot be decoded.
        """
        return torch.stack(self._each(self._square, indices.tolist()))

    def without_damaged(self) -> "Decoded":
        """Only the pictures that can be decoded, each of which is decoded to know."""
        kept = torch.tensor([i for i, fine in enumerate(self._each(self._is_whole, range(len(self)))) if fine])
        if len(kept) == len(self):
            return self
        if not len(kept):
            raise ValueError(f"none of {len(self)} pictures can be decoded, the first of them {self._name(0)}")
        places = kept.tolist()
        return replace(
            self,
            open=lambda index: self.open(places[index]),
            labels=self.labels[kept],
            content=digest(repr((self.content, places)).encode()),
            names=tuple(self.names[place] for place in places) if self.names else (),
            groups=None if self.groups is None else self.groups[kept],
            num_skipped=len(self) - len(kept),
        )

    def _each(self, function: Callable[[int], Result], indices: Iterable[int]) -> list[Result]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(function, indices))

    def _is_whole(self, index: int) -> bool:
        try:
            self._picture(index)
        except ValueError:
            return False
        return True

    def _picture(self, index: int) -> Any:
        try:
            return self.open(index).convert("RGB")
        except (OSError, SyntaxError) as error:  # Pillow's words for a file that is absent, cut short or no picture
            raise ValueError(
                f"{self._name(index)} cannot be decoded: mend it, or skip damaged pictures ({error})"
            ) from error

    def _square(self, index: int) -> Tensor:
        from torchvision.transforms import InterpolationMode, functional  # takes a second to import

        picture = self._picture(index)
        width, height = picture.size
        if min(width, height) <= 2 * self.border:
            raise ValueError(f"{self._name(index)} is {width} x {height}: no border of {self.border} can be cut off it")
        inner = picture.crop((self.border, self.border, width - self.border, height - self.border))
        scaled = functional.resize(inner, self.size, InterpolationMode(self.interpolation))
        pixels: Tensor = functional.pil_to_tensor(functional.center_crop(scaled, [self.size, self.size]))
        return pixels

    def _name(self, index: int) -> str:
        return f"picture {self.names[index] if self.names else index}"


def digest(*parts: bytes | memoryview) -> str:
    """16 hexadecimal digits that stand for the content of `parts`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]
