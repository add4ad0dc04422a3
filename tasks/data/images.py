"""Labelled images by name: digits, torchvision's sets, arrays and folders of one's own, read and never downloaded.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from tasks.data.catalogue import (
    FOLDER_IMAGE_SIZE,
    KNOWN,
    NPZ_KEYS,
    DataSpec,
    check,
    held_out_folder,
    how_to_fetch,
    path_of,
)
from tasks.data.pixels import Decoded, InMemory, Scale, digest
from tasks.data.splits import hold_out, require_classes
from tasks.near_names import unknown_name

PartName = Literal["train", "test"]


class Images(Protocol):
    """Labelled images of one shape; `batch` is the only way to the pixels."""

    @property
    def labels(self) -> Tensor:
        """Classes as int64, (n,)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def mean(self) -> Scale:
        """What is subtracted from pixels in [0, 1]; see `DataSpec.mean`."""

    @property
    def std(self) -> Scale:
        """What the difference is divided by; see `DataSpec.std`."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the content."""

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, uint8 (b, c, h, w)."""


def load(spec: DataSpec, split: PartName, root: Path | None = None) -> Images:
    """The train or test images of a data set; nothing is downloaded.

    Raises ValueError, saying what to fetch and where it must lie, if the files are absent or damaged, and if the split
    is empty or holds a single class.
    """
    check(spec, root)
    kind = spec.name.partition(":")[0]
    readers = {"digits": _digits, "npz": _npz, "imagefolder": _image_folder}
    images = readers.get(kind, _torchvision)(spec, split, root)
    _check_labels(images, f"the {split} split of {spec.name!r}")
    for name, value in (("mean", spec.mean), ("std", spec.std)):
        if isinstance(value, tuple) and len(value) != images.shape[0]:
            raise ValueError(f"{name} must be one number or one for each of {images.shape[0]} channels, got {value}")
    return images


def _check_labels(images: Images, what: str) -> None:
    require_classes(images.labels.numpy(), what)
    low, high, num_classes = int(images.labels.min()), int(images.labels.max()), len(images.class_names)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{what} has labels from {low} to {high}: with {num_classes} classes they must be 0 to {num_classes - 1}"
        )


def _digits(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    """Scikit-learn's 1,797 digits, 0 to 16 scaled to 0 to 255: a fixed stratified half each (900 and 897)."""
    from sklearn.datasets import load_digits  # takes a second to import; only this set needs it

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = hold_out(labels, 897 / 1797, seed=0)
    chosen = train if split == "train" else test
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _in_memory(spec, pixels[chosen], labels[chosen], tuple(map(str, range(10))))


def _npz(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    path = path_of(spec, root)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64)
            num_classes = int(arrays["train_labels"].astype(np.int64).max(initial=-1)) + 1
    except Exception as error:  # a damaged archive shows itself in many ways: zipfile, zlib, numpy, KeyError
        raise ValueError(f"{path} must be a numpy .npz file with the arrays {', '.join(NPZ_KEYS)}: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise ValueError(f"{path} must hold uint8 images (n, h, w) or (n, h, w, 3), got {pixels.dtype} {pixels.shape}")
    return _in_memory(spec, pixels, labels, tuple(map(str, range(num_classes))))


def _image_folder(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    from torchvision.datasets import ImageFolder  # takes a second to import; tensors need it not

    folder = path_of(spec, root)
    parts = {"train": folder / "train", "test": held_out_folder(folder)}
    try:
        pictures = ImageFolder(str(parts[split]))
    except FileNotFoundError as error:  # no class folder, or one without a picture
        raise ValueError(f"{parts[split]} must hold a folder of pictures for each class: {error}") from error
    expected = sorted(entry.name for entry in parts["train"].iterdir() if entry.is_dir())
    if pictures.classes != expected:
        raise ValueError(
            f"{parts[split]} must hold the classes of {parts['train']}, {expected}, got {pictures.classes}"
        )
    return _decoded(spec, pictures)


def _torchvision(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    """A set of torchvision's, in memory where torchvision keeps it so."""
    dataset = _open_torchvision(spec, split, root)
    data = getattr(dataset, "data", None)
    if isinstance(data, np.ndarray | Tensor) and data.ndim in (3, 4):
        return _in_memory(spec, np.asarray(data), np.asarray(_labels(dataset)), _class_names(dataset))
    return _decoded(spec, dataset)


def _open_torchvision(spec: DataSpec, split: PartName, root: Path | None) -> Any:
    from torchvision import datasets  # takes a second to import; tensors need it not

    known = KNOWN.get(spec.name)
    name = known.torchvision if known and known.torchvision else spec.name.partition(":")[2]
    if name not in datasets.__all__:
        raise unknown_name("torchvision data set", name, datasets.__all__)
    make = getattr(datasets, name)
    parameters = inspect.signature(make).parameters
    attempts: list[dict[str, Any]] = [{"train": split == "train"}] if "train" in parameters else []
    if "split" in parameters:
        attempts = [{"split": part} for part in (["train"] if split == "train" else ["test", "val"])]
    assert root is not None, "check() has refused this"
    reason: Exception = ValueError(f"torchvision.datasets.{name} has no train and test split")
    for arguments in attempts:
        try:
            return make(str(root), **arguments)
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:  # absent, damaged, no such split
            reason = error
    raise ValueError(f"data set {spec.name!r} cannot be read under {root}: {how_to_fetch(name, root)} ({reason})")


def _labels(dataset: Any) -> Sequence[int]:
    """The labels of a torchvision data set, which keeps them under one of several names, else in its items."""
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            labels: Sequence[int] = getattr(dataset, name)
            return labels
    return [dataset[index][1] for index in range(len(dataset))]


def _class_names(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or range(int(max(_labels(dataset))) + 1)
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)


def _in_memory(spec: DataSpec, pixels: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> InMemory:
    """Pixels (n, h, w), (n, h, w, 3) or (n, 3, h, w), resized."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.shape[1] != 3:
        tensor = tensor.movedim(-1, 1).contiguous()
    if spec.image_size and len(tensor):
        size = (spec.image_size, spec.image_size)
        tensor = torch.nn.functional.interpolate(tensor, size, mode="bilinear", antialias=True)
    return InMemory(tensor, torch.from_numpy(labels.astype(np.int64)), class_names, spec.mean, spec.std)


def _decoded(spec: DataSpec, dataset: Any) -> Decoded:
    labels = torch.tensor([int(label) for label in _labels(dataset)])
    names = _class_names(dataset)
    root = Path(dataset.root)
    files = [Path(path) for path, _ in getattr(dataset, "samples", [])]
    listing = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    fingerprint = digest(repr((names, listing)).encode(), labels.numpy().tobytes())
    size = spec.image_size or FOLDER_IMAGE_SIZE
    return Decoded(lambda index: dataset[index][0], labels, names, size, fingerprint, spec.mean, spec.std)
