"""Labelled images by name: digits, torchvision's sets, arrays and user-supplied pictures, read and never downloaded.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amalgam.tasks.data.catalogue import (
    KNOWN,
    NO_PICTURES,
    NPZ,
    DataSpec,
    check,
    held_out_folder,
    how_to_fetch,
    path_of,
)
from amalgam.tasks.data.layouts import (
    PICTURES,
    array_numbers,
    column_numbers,
    file_size,
    is_content,
    npz_array,
    open_picture,
)
from amalgam.tasks.data.listings import READERS, read_listing
from amalgam.tasks.data.pixels import Images, decoded, digest, enlarged, in_memory, resized
from amalgam.tasks.data.splits import hold_out, require_classes
from amalgam.tasks.user_names import is_in_file, load_name, unknown_name

PartName = Literal["train", "test"]
CHANNELS = (1, 3)  # of pictures: grey and colour


def load(spec: DataSpec, split: PartName, root: Path | None = None) -> Images:
    """The train or test images of a data set; nothing is downloaded.

    Raises ValueError, saying what to fetch and where it must lie, if the files are absent or damaged, and if the split
    is empty or has a single class.
    """
    check(spec, root)
    kind = spec.name.partition(":")[0]
    readers = {"digits": _digits, "npz": _npz, "imagefolder": _image_folder} | dict.fromkeys(READERS, read_listing)
    reader = _from_file if is_in_file(spec.name) else readers.get(kind, _torchvision)
    images: Images = reader(spec, split, root)
    _check_labels(images, f"the {split} split of {spec.name!r}")
    for name, value in (("mean", spec.mean), ("std", spec.std)):
        if isinstance(value, tuple) and len(value) != images.shape[0]:
            raise ValueError(f"{name} must be one number or one for each of {images.shape[0]} channels, got {value}")
    if spec.group_column and images.sources is None:
        raise ValueError(f"{spec.name!r} has no table with a column {spec.group_column!r}: leave group_column out")
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


def _from_file(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    """What a function in a user's file gives."""
    try:
        pixels, labels, class_names = load_name(spec.name, "function")(split, root)
        pixels, labels = np.asarray(pixels), _whole_numbers(np.asarray(labels))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec.name} must give images, labels and the names of the classes: {error}") from error
    return _checked(spec, spec.name, pixels, labels, tuple(map(str, class_names)))


def _npz(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    path = path_of(spec, root)
    try:
        pixels, labels = (npz_array(path, split, what) for what in ("images", "labels"))
        labels, of_training = (_whole_numbers(values) for values in (labels, npz_array(path, "train", "labels")))
        num_classes = int(of_training.max(initial=-1)) + 1
        if num_classes > len(of_training):
            raise ValueError(f"label {num_classes - 1} among {len(of_training)} images: classes are counted from 0")
    except Exception as error:  # a damaged archive shows itself in many ways: zipfile, zlib, numpy, KeyError
        raise ValueError(f"{path} must be {NPZ}: {error}") from error
    images = _checked(spec, str(path), pixels, labels, tuple(map(str, range(num_classes))))
    if spec.group_column is None:
        return images
    return replace(images, sources=torch.from_numpy(array_numbers(path, split, spec.group_column, len(labels))))


def _checked(spec: DataSpec, what: str, pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Images:
    """User-supplied arrays as images. Raises ValueError unless they have the shapes and the type of images."""
    channels = {pixels.shape[1], pixels.shape[-1]} if pixels.ndim == 4 else set(CHANNELS)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or not channels & set(CHANNELS):
        raise ValueError(
            f"{what} must contain uint8 images (n, h, w) or (n, h, w, 3), got {pixels.dtype} {pixels.shape}"
        )
    if len(labels) != len(pixels):
        raise ValueError(f"{what} must contain a label for each image, got {len(labels)} for {len(pixels)} images")
    return _in_memory(spec, pixels, labels, names)


def _whole_numbers(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) or (n, 1), as some sets keep them, as integers (n,). Raises ValueError for others."""
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1 or (flat != flat.astype(np.int64)).any():
        raise ValueError(f"labels must be one whole number for each image, got {labels.dtype} {labels.shape}")
    return flat[:, 0].astype(np.int64)


def _image_folder(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    from torchvision.datasets import ImageFolder  # takes a second to import; tensors need it not

    class Content(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            names = [name for name in super().find_classes(directory)[0] if is_content(name)]
            return names, {name: label for label, name in enumerate(names)}

    folder = path_of(spec, root)
    parts = {"train": folder / "train", "test": held_out_folder(folder)}
    try:
        pictures = Content(str(parts[split]), loader=open_picture, is_valid_file=_is_picture)
    except FileNotFoundError as error:  # no class folder, or one without a picture
        raise ValueError(f"{parts[split]} must contain a folder of pictures for each class: {error}") from error
    expected = sorted(entry.name for entry in parts["train"].iterdir() if entry.is_dir() and is_content(entry.name))
    if pictures.classes != expected:
        raise ValueError(
            f"{parts[split]} must contain the classes of {parts['train']}, {expected}, got {pictures.classes}"
        )
    return _decoded(spec, pictures, np.arange(len(pictures)))


def _is_picture(path: str) -> bool:
    file = Path(path)
    return file.suffix.lower() in PICTURES and is_content(file.name)


def _torchvision(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    """A set of torchvision's, in memory where torchvision keeps it so; of one without splits, a fixed half each."""
    dataset = _open_torchvision(spec, split, root)
    data = getattr(dataset, "data", None)
    if isinstance(data, np.ndarray | Tensor) and data.ndim in (3, 4):
        _require_pictures(spec)
        return _in_memory(spec, np.asarray(data), np.asarray(_labels(dataset)), _class_names(dataset))
    if _is_split(type(dataset)):
        return _decoded(spec, dataset, np.arange(len(dataset)))
    halves = hold_out(np.asarray(_labels(dataset)), 0.5, seed=0)
    return _decoded(spec, dataset, halves[0] if split == "train" else halves[1])


def _require_pictures(spec: DataSpec) -> None:
    if spec.border or spec.skip_damaged or spec.crop < 1:
        raise ValueError(f"data set {spec.name!r} {NO_PICTURES}")


def _is_split(kind: Any) -> bool:
    return not {"train", "split"}.isdisjoint(inspect.signature(kind).parameters)


def _open_torchvision(spec: DataSpec, split: PartName, root: Path | None) -> Any:
    from torchvision import datasets  # takes a second to import; tensors need it not

    known = KNOWN.get(spec.name)
    name = known.torchvision if known and known.torchvision else spec.name.partition(":")[2]
    if name not in datasets.__all__:
        raise unknown_name("torchvision data set", name, datasets.__all__)
    make = getattr(datasets, name)
    parameters = inspect.signature(make).parameters
    attempts: list[dict[str, Any]] = [{"train": split == "train"} if "train" in parameters else {}]
    if "split" in parameters:
        attempts = [{"split": part} for part in (["train", "trainval"] if split == "train" else ["test", "val"])]
    assert root is not None, "check() has refused this"
    reason: Exception | None = None
    for arguments in attempts:
        try:
            return make(str(root), **arguments)
        # Absent, damaged, no such split, or a set that wants other arguments.
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError, EOFError) as error:
            reason = error
    raise ValueError(f"data set {spec.name!r} cannot be read under {root}: {how_to_fetch(name, root)} ({reason})")


def _labels(dataset: Any) -> Sequence[int]:
    """The labels of a torchvision data set, which keeps them under one of several names, else in its items."""
    for name in ("targets", "labels", "_labels", "y"):
        if hasattr(dataset, name):
            labels: Sequence[int] = getattr(dataset, name)
            return labels
    if hasattr(dataset, "_samples"):
        return [label for _, label in dataset._samples]
    return [dataset[index][1] for index in range(len(dataset))]


def _class_names(dataset: Any) -> tuple[str, ...]:
    names = (
        getattr(dataset, "classes", None)
        or getattr(dataset, "categories", None)
        or range(int(max(_labels(dataset))) + 1)
    )
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)


def _in_memory(spec: DataSpec, pixels: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> Images:
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


def _decoded(spec: DataSpec, dataset: Any, places: np.ndarray) -> Images:
    """Pictures of torchvision's, at some places."""
    labels, names = np.asarray(_labels(dataset), np.int64)[places], _class_names(dataset)
    root, samples = Path(dataset.root), getattr(dataset, "samples", [])
    files = [Path(samples[place][0]) for place in places] if samples else []
    listing = [(path.relative_to(root).as_posix(), file_size(path, spec.skip_damaged)) for path in files]
    content = digest(repr((names, listing)).encode(), labels.tobytes(), places.tobytes())
    in_table = [path.relative_to(root.parent).as_posix() for path in files]
    return decoded(
        spec,
        lambda index: dataset[places[index]][0],
        labels.tolist(),
        names,
        content,
        names=tuple(map(str, files)),
        sources=column_numbers(root.parent, in_table, spec.group_column if files else None),
    )
