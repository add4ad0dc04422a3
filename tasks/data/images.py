"""Labelled images by name: digits, torchvision's sets, arrays and user-supplied pictures, read and never downloaded.

Shapes: (b, c, h, w) = batch, channels, height, width.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from amalgam.tasks.data.catalogue import NPZ, DataSpec, check, path_of
from amalgam.tasks.data.layouts import array_numbers, npz_array
from amalgam.tasks.data.pixels import CHANNELS, Images, PartName, from_arrays
from amalgam.tasks.data.reading.listings import READERS, read_listing
from amalgam.tasks.data.reading.torchvision_sets import image_folder, torchvision_set
from amalgam.tasks.data.splits import hold_out, require_classes
from amalgam.tasks.user_names import is_in_file, load_name


def load(spec: DataSpec, split: PartName, root: Path | None = None) -> Images:
    """The train or test images of a data set; nothing is downloaded.

    Raises ValueError, saying what to fetch and where it must lie, if the files are absent or damaged, and if the split
    is empty or has a single class.
    """
    check(spec, root)
    kind = spec.name.partition(":")[0]
    readers = {"digits": _digits, "npz": _npz, "imagefolder": image_folder} | dict.fromkeys(READERS, read_listing)
    reader = _from_file if is_in_file(spec.name) else readers.get(kind, torchvision_set)
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
    return from_arrays(spec, pixels[chosen], labels[chosen], tuple(map(str, range(10))))


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
    return from_arrays(spec, pixels, labels, names)


def _whole_numbers(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) or (n, 1), as some sets keep them, as integers (n,). Raises ValueError for others."""
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1 or (flat != flat.astype(np.int64)).any():
        raise ValueError(f"labels must be one whole number for each image, got {labels.dtype} {labels.shape}")
    return flat[:, 0].astype(np.int64)
