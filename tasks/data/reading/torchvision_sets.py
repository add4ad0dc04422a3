"""Sets that torchvision reads: its own, and folders of images. Nothing is downloaded."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from amalgam.tasks.data.catalogue import KNOWN, NO_PICTURES, DataSpec, held_out_folder, how_to_fetch, path_of
from amalgam.tasks.data.layouts import PICTURES, column_numbers, file_size, is_content, open_picture
from amalgam.tasks.data.pixels import Images, PartName, digest, from_arrays
from amalgam.tasks.data.reading.pictures import decoded
from amalgam.tasks.data.splits import hold_out
from amalgam.tasks.user_names import unknown_name


def image_folder(spec: DataSpec, split: PartName, root: Path | None) -> Images:
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


def torchvision_set(spec: DataSpec, split: PartName, root: Path | None) -> Images:
    """A set of torchvision's, in memory where torchvision keeps it so; of one without splits, a fixed half each."""
    dataset = _open_torchvision(spec, split, root)
    data = getattr(dataset, "data", None)
    if isinstance(data, np.ndarray | Tensor) and data.ndim in (3, 4):
        _require_pictures(spec)
        return from_arrays(spec, np.asarray(data), np.asarray(_labels(dataset)), _class_names(dataset))
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
