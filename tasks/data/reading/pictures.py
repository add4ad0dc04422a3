"""Pictures in files, decoded when they are read."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from amalgam.tasks.data.catalogue import FOLDER_IMAGE_SIZE, DataSpec, Interpolation
from amalgam.tasks.data.layouts import require_file
from amalgam.tasks.data.pixels import Images, digest

ROUNDING = 1e-6  # of a share of pixels
Result = TypeVar("Result")


def in_colour(picture: Any) -> Any:
    """The picture in RGB, 8 bits each; 16 bits of grey are scaled, which Pillow would cut off at 255.

    Raises ValueError for numbers whose range is not known: grey beyond 16 bits, and floating point.
    """
    from PIL import Image  # tensors need it not

    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.size and not 0 <= grey.min() <= grey.max() < 2**16:
            raise ValueError(f"its grey levels are {grey.min()} to {grey.max()}: save it with 8 or 16 bits")
        picture = Image.fromarray((grey >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range: save it with 8 or 16 bits")
    return picture.convert("RGB")


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
