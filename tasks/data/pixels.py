"""Labelled images as one value, and where their pixels come from: a tensor in memory, or files that are decoded.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.tasks.data.catalogue import FOLDER_IMAGE_SIZE, DataSpec, Interpolation
from amalgam.tasks.data.layouts import require_file

ROUNDING = 1e-6  # of a share of pixels
Scale = float | tuple[float, ...]
Result = TypeVar("Result")


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


def enlarged(images: Images, size: int, interpolation: Interpolation = "bilinear") -> Images:
    """Squares of a side in pixels, made whenever they are read: kept so large they might not fit in memory."""
    return changed(images, lambda pixels, _: resized(pixels, size, interpolation), (size, interpolation), size)


def resized(pixels: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Images uint8 (b, c, h, w) as squares of a side in pixels, with antialiasing."""
    return interpolate(pixels, (size, size), mode=interpolation, antialias=True)


def in_colour(picture: Any) -> Any:
    """The picture in RGB, 8 bits each; 16 bits of grey are scaled, which Pillow would cut off at 255.

    Raises ValueError for numbers whose range is not known: grey beyond 16 bits, and floating point.
    """
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.size and not 0 <= grey.min() <= grey.max() < 2**16:
            raise ValueError(f"its grey levels are {grey.min()} to {grey.max()}: save it with 8 or 16 bits")
        picture = _grey(grey)
    elif picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range: save it with 8 or 16 bits")
    return picture.convert("RGB")


def _grey(levels: np.ndarray) -> Any:
    from PIL import Image  # tensors need it not

    return Image.fromarray((levels >> 8).astype(np.uint8))


@dataclass(frozen=True)
class PictureFiles:
    """Pictures decoded when read, by threads: made RGB, short side resized, centre cropped to a square of `size`."""

    open: Callable[[int], Any]
    """The PIL image at a position."""
    size: int
    interpolation: Interpolation = "bilinear"
    border: int = 0
    """Pixels cut off every side before anything else."""
    names: tuple[str, ...] = ()
    """Files, as messages name them; empty where they are not known."""
    crop: float = 1.0
    """Side of the square, as a share of the short side."""

    def squares(self, positions: Sequence[int]) -> Tensor:
        """Those at some positions, uint8 (b, 3, size, size); as many threads decode as torch computes with.

        Raises ValueError, with the name of the picture, if one cannot be decoded.
        """
        return torch.stack(self._each(self._square, positions))

    def undamaged(self, count: int) -> list[int]:
        """Which of the first `count` pictures can be decoded, each of which is decoded to know.

        Raises ValueError if none can.
        """
        whole = [position for position, fine in enumerate(self._each(self._is_whole, range(count))) if fine]
        if not whole and count:
            raise ValueError(f"none of {count} pictures can be decoded, the first of them {self._name(0)}")
        return whole

    def _each(self, function: Callable[[int], Result], positions: Iterable[int]) -> list[Result]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(function, positions))

    def _is_whole(self, position: int) -> bool:
        try:
            self._picture(position)
        except ValueError:
            return False
        return True

    def _picture(self, position: int) -> Any:
        try:
            if self.names:
                require_file(self.names[position])
            return in_colour(self.open(position))
        except Exception as error:  # Pillow, zlib, struct, libtiff ... each have their own words for a damaged picture
            raise ValueError(
                f"{self._name(position)} cannot be decoded: replace the file, or set skip_damaged ({error})"
            ) from error

    def _square(self, position: int) -> Tensor:
        from torchvision.transforms import InterpolationMode, functional  # takes a second to import

        picture, name = self._picture(position), self._name(position)
        width, height = picture.size
        if min(width, height) <= 2 * self.border:
            raise ValueError(f"{name} is {width} x {height} pixels, too small to crop a border of {self.border}")
        inner = picture.crop((self.border, self.border, width - self.border, height - self.border))
        # As timm rounds it; torchvision's 224 / 0.875 is 256.
        short_side = math.floor(self.size / self.crop + ROUNDING)
        scaled = functional.resize(inner, short_side, InterpolationMode(self.interpolation))
        pixels: Tensor = functional.pil_to_tensor(functional.center_crop(scaled, [self.size, self.size]))
        return pixels

    def _name(self, position: int) -> str:
        return f"picture {self.names[position] if self.names else position}"


def decoded(
    spec: DataSpec,
    open_picture: Callable[[int], Any],
    labels: Sequence[int],
    class_names: tuple[str, ...],
    content: str,
    *,
    names: tuple[str, ...] = (),
    groups: Sequence[int] | None = None,
    group_names: tuple[str, ...] = (),
    sources: Sequence[int] | None = None,
) -> Images:
    """Pictures made into squares as `spec` says, the damaged ones left out if it says so.

    `content` is the hexadecimal digest of class names, labels and, where they are known, file names and sizes.
    """
    size, count = spec.image_size or FOLDER_IMAGE_SIZE, len(labels)
    pictures = PictureFiles(open_picture, size, spec.interpolation, spec.border, names, spec.crop)
    kept = pictures.undamaged(count) if spec.skip_damaged else range(count)
    if len(kept) < count:
        content = digest(repr((content, list(kept))).encode())
    return Images(
        lambda ids: pictures.squares([kept[place] for place in ids.tolist()]),
        torch.tensor([labels[place] for place in kept], dtype=torch.int64),
        class_names,
        (3, size, size),
        lambda: digest(repr((content, size, spec.interpolation, spec.border, spec.crop)).encode()),
        spec.mean,
        spec.std,
        None if groups is None else torch.tensor([groups[place] for place in kept], dtype=torch.int64),
        group_names,
        None if sources is None else torch.tensor([[sources[place]] for place in kept], dtype=torch.int64),
        num_skipped=count - len(kept),
        is_decoded=True,
    )


def digest(*parts: bytes | memoryview) -> str:
    """16 hexadecimal digits that stand for the content of `parts`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]
