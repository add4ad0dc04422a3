"""Staged features, read back: as a table to train on, or as the anchors of fine-tuning.

A file of features is a file of rows (`pipeline.store.tables.rows`) with one site; its provenance says which encoder saw
which views of which images. Files of several parts are read as one, in the order in which a single part would have
written them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from torch import Tensor

from amalgam.pipeline.store.tables.rows import Rows, RowsInfo, describe, read_rows
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.config import FeatureInfo

FEATURES, SITE = "features.parquet", "features"
BATCH = 8192  # rows read at once


class Staged(BaseModel):
    """What a file of features says of its origin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    """Key of the encoder and its preprocessing, as in `ClassifierInfo`."""
    data: str
    """Fingerprint of the images."""
    augment: str
    """The kind of views."""
    views: tuple[int, ...]
    """Which of that kind."""
    part: int
    """Which share of the images, from 0."""
    num_parts: int

    @field_validator("views", mode="before")
    @classmethod
    def _numbers(cls, views: object) -> object:
        return views.split() if isinstance(views, str) else views

    @property
    def provenance(self) -> dict[str, str]:
        """The same in words, from which it can be made again."""
        words = {name: str(value) for name, value in self if name != "views"}
        return words | {"views": " ".join(map(str, self.views))}

    @property
    def whole(self) -> Self:
        """What all parts of one staging have in common."""
        return self.model_copy(update={"part": 0})


@dataclass(frozen=True)
class FeatureTable:
    """Features of images, one row for each view of each."""

    ids: Tensor
    """Position of the image in its set, (rows,)."""
    labels: Tensor
    """Its class, (rows,)."""
    domains: tuple[str, ...]
    """Where images are from."""
    domain_codes: Tensor
    """Which of `domains` each is from, (rows,)."""
    views: Tensor
    """Which view of it was encoded, (rows,)."""
    features: Tensor
    """(rows, width), as the encoder gave them, in the dtype of the file."""
    info: FeatureInfo
    """What they are."""


def read_features(places: Sequence[Path], *, backbone: str | None = None, width: int | None = None) -> FeatureTable:
    """The features in files, or in folders of steps, of one set of images or of several, in order of view and image.

    Raises ValueError if there are none, one is damaged or of another `backbone` or `width`, or a part is missing.
    """
    files = _opened(places, backbone, width)
    _require_every_part(files)
    first, names, keys = files[0], dict[str, int](), list[NDArray[np.int64]]()
    features = torch.empty(sum(file.info.num_rows for file in files), first.width, dtype=first.dtype)
    start = 0
    for file in files:
        for rows in file.rows():
            features[start : start + len(rows.ids)] = torch.from_numpy(rows.sites[SITE])
            keys.append(np.stack([rows.ids, rows.labels, _codes(rows, names), rows.views]))
            start += len(rows.ids)
    order = _order(files, np.concatenate(keys, 1)[3])
    ids, labels, codes, views = torch.from_numpy(np.concatenate(keys, 1)[:, order])
    about = FeatureInfo(width=first.width, normalised=False, backbone=first.staged.backbone)
    in_place = bool((np.diff(order) == 1).all())  # indexing would copy a table that may fill half the memory
    return FeatureTable(ids, labels, tuple(names), codes, views, features if in_place else features[order], about)


class StagedViews:
    """Features (num_images, width) by view, NaN where an image was not encoded, in the dtype of their files.

    One view is in memory at a time, the one requested last: an epoch of training sees one, and ten views of
    ImageNet would fill 26 GB. Asking for another reads it; that raises ValueError if there are more images.
    """

    def __init__(self, files: Sequence["_File"], num_images: int) -> None:
        self._files, self._num_images = files, num_images
        self._loaded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._files[0].staged.views)

    def __getitem__(self, view: int) -> Tensor:
        if not 0 <= view < len(self):
            raise IndexError(f"there are {len(self)} views, got {view}")
        if view not in self._loaded:
            self._loaded.clear()  # first, or two would be in memory while the new one is read
            self._loaded[view] = self._read(view)
        return self._loaded[view]

    def _read(self, view: int) -> Tensor:
        first, count = self._files[0], self._num_images
        found = torch.full((count, first.width), torch.nan, dtype=first.dtype)
        for file in self._files:
            for rows in file.rows(view):
                if rows.ids.max() >= count:
                    raise ValueError(f"{file.path} holds features of image {rows.ids.max()}, but there are {count}")
                found[rows.ids] = torch.from_numpy(rows.sites[SITE])
        return found


def anchors(
    places: Sequence[Path], num_images: int, backbone: str | None = None, data: str | None = None
) -> StagedViews:
    """Features by view and image.

    Raises ValueError as `read_features` does but for missing parts, for views that are not 0, 1, ... without a gap, and
    for files of other images: of several sets, or of one whose fingerprint is not `data`.
    """
    files = _opened(places, backbone, None)
    first = files[0]
    for file in files:
        if file.staged.whole != first.staged.whole or data not in (None, file.staged.data):
            raise ValueError(f"{file.path} holds features of other images or views: they cannot anchor these images")
    if sorted(first.staged.views) != list(range(len(first.staged.views))):
        raise ValueError(f"{first.path} holds the views {first.staged.views}: anchors need those from 0 on")
    return StagedViews(files, num_images)


def as_wanted(features: Tensor, wanted: FeatureInfo) -> Tensor:
    """Features (..., width) of an encoder in float32: of norm 1 if such are wanted, else as they are."""
    wide = features.float()
    return unit_norm(wide) if wanted.normalised else wide


@dataclass(frozen=True)
class _File:
    path: Path
    info: RowsInfo
    staged: Staged

    @property
    def width(self) -> int:
        return self.info.sites[SITE][0]

    @property
    def dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.info.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def rows(self, view: int | None = None) -> Iterator[Rows]:
        return read_rows(self.path, batch_size=BATCH, view=view)


def _opened(places: Sequence[Path], backbone: str | None, width: int | None) -> list[_File]:
    """The files, those of one staging side by side and in the order of their parts."""
    if not places:
        raise ValueError("there are no features to read: give at least one file")
    files = [_open(place / FEATURES if place.is_dir() else place) for place in places]
    first = files[0]
    for file in files:
        for name, found, needed in (
            ("the encoder", file.staged.backbone, backbone or first.staged.backbone),
            ("width", file.width, width or first.width),
            ("dtype", file.info.dtype, first.info.dtype),
        ):
            if found != needed:
                raise ValueError(f"{file.path} holds features of {name} {found}, needed are those of {needed}")
    stagings = list(dict.fromkeys(file.staged.whole for file in files))
    return sorted(files, key=lambda file: (stagings.index(file.staged.whole), file.staged.part))


def _open(path: Path) -> _File:
    info = describe(path)
    try:
        staged = Staged.model_validate(info.provenance)
    except ValidationError as error:
        raise ValueError(f"{path} is no file of features: it holds {', '.join(info.sites)}") from error
    return _File(path, info, staged)


def _require_every_part(files: Sequence[_File]) -> None:
    for whole, parts in groupby(files, key=lambda file: file.staged.whole):
        found = [file.staged.part for file in parts]
        if found != list(range(whole.num_parts)):
            raise ValueError(
                f"the features beside {files[0].path} are parts {found} of {whole.num_parts}: give every part once"
            )


def _order(files: Sequence[_File], views: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows by staging, then view; within one they are in the order of their images already."""
    stagings = list(dict.fromkeys(file.staged.whole for file in files))
    staging = np.repeat([stagings.index(file.staged.whole) for file in files], [file.info.num_rows for file in files])
    return np.lexsort((views, staging))


def _codes(rows: Rows, names: dict[str, int]) -> NDArray[np.int64]:
    """The number of each row's domain; domains seen first are added to `names`."""
    domains, which = np.unique(rows.domains, return_inverse=True)
    return np.array([names.setdefault(str(domain), len(names)) for domain in domains])[which]
