"""Where the pixels of labelled images are kept: in memory as one tensor, or in files that are decoded when asked for.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Scale = float | tuple[float, ...]


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
class Decoded:
    """Pictures decoded on demand, by threads: made RGB, short side resized to `size`, centre cropped to a square."""

    open: Callable[[int], Any]
    """The PIL image at a position."""
    labels: Tensor
    class_names: tuple[str, ...]
    size: int
    fingerprint: str
    """Hexadecimal digest of class names, labels and, where they are known, file names and sizes in bytes."""
    mean: Scale = 0.5
    std: Scale = 0.5

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, uint8 (b, 3, size, size); as many threads decode as torch computes with."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return torch.stack(list(pool.map(self._decode, indices.tolist())))

    def _decode(self, index: int) -> Tensor:
        from torchvision.transforms import functional  # takes a second to import; tensors need it not

        try:
            picture = self.open(index).convert("RGB")
        except OSError as error:  # Pillow's word for a file that is cut short or no picture
            raise ValueError(f"picture {index} of the data set cannot be decoded: {error}") from error
        square = functional.center_crop(functional.resize(picture, self.size), [self.size, self.size])
        pixels: Tensor = functional.pil_to_tensor(square)
        return pixels


def digest(*parts: bytes | memoryview) -> str:
    """16 hexadecimal digits that stand for the content of `parts`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]
