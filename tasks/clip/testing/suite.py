"""What a test suite is, and where the pictures of its sets lie. Importable without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.models.clip_spec import Preprocessing
from amalgam.tasks.user_names import unknown_name


class Suite(BaseModel):
    """What a classifier is fine-tuned on, and what it is tested on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labelled: Stored | None
    """What is fine-tuned on; a share of it is held out for every choice. None where the suite only tests."""
    class_names: tuple[str, ...]
    """What its classes are called in prompts."""
    templates: str | tuple[str, ...]
    """The set of prompts that makes its head."""
    choose_by: Literal["accuracy", "macro_f1"] = "accuracy"
    """The metric of held-out images by which everything is chosen."""
    test_sets: tuple[TestSet, ...] = Field(min_length=1)

    def grouped_by(self, column: str) -> Self:
        """The same, no value of that column on both sides of a split: held out or not, tested or not."""

        def grouped(source: Stored) -> Stored:
            return source.model_copy(update={"data": source.data.model_copy(update={"group_column": column})})

        tests = tuple(
            one.model_copy(update={"source": grouped(one.source)})
            if isinstance(one.source, Stored) and one.source.test_share
            else one
            for one in self.test_sets
        )
        labelled = None if self.labelled is None else grouped(self.labelled)
        return self.model_copy(update={"labelled": labelled, "test_sets": tests})


@dataclass(frozen=True)
class PictureSettings:
    """How all pictures of a suite are prepared: as the backbone's weights were trained."""

    settings: Mapping[str, Any]
    """Fields of `DataSpec`."""

    @classmethod
    def of(cls, preprocessing: Preprocessing, **settings: Any) -> "PictureSettings":
        """Those of a backbone. Raises ValueError for a backbone that reads no squares."""
        height, width = preprocessing.size
        if height != width or preprocessing.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"backbones must read squares, resized bicubic or bilinear, got {preprocessing!r}")
        scale = {"mean": preprocessing.mean, "std": preprocessing.std, "interpolation": preprocessing.interpolation}
        return cls({"image_size": height, **scale, **settings})

    def stored(self, name: str, split: str = "test", **settings: Any) -> Stored:
        """A split of a data set."""
        return Stored(data=DataSpec(name=name, **self.settings, **settings), split=split)


@dataclass(frozen=True)
class DataFolder:
    """Where the pictures of a test set lie."""

    folder: str
    """Under the data root."""
    fetch: str
    """What to unpack there, and where it is from."""

    def under(self, root: Path | None, remedy: str = "") -> Path:
        """The folder. Raises ValueError, saying what is missing and what else may be done, if it is not there."""
        if root is None:
            raise ValueError(f"{self.fetch} must lie in {self.folder} under the data root: give --data-root")
        if not (root / self.folder).is_dir():
            raise ValueError(f"{root / self.folder} is missing: unpack {self.fetch} there{remedy}")
        return root / self.folder


def chosen(every: Mapping[str, object], only: Sequence[str]) -> Sequence[str]:
    """Names of test sets: `only`, or all there are if it is empty. Raises ValueError for unknown ones."""
    for name in only:
        if name not in every:
            raise unknown_name("test set", name, every)
    return only or list(every)
