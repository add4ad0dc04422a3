"""The flags that say which CLIP is fine-tuned, and how its pictures are prepared: never by values that nobody gave."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from amalgam.pipeline.experiments.flags import Floats, Texts
from amalgam.pipeline.steps.clip.backbones import OpenedConfig
from amalgam.pipeline.store.canonical import read_object
from amalgam.tasks.clip.prompts import SLOT, checked_names, templates_of
from amalgam.tasks.clip.testing.suite import Suite
from amalgam.tasks.models.clip_spec import CLIP_WEIGHTS, OPEN_CLIP_CONFIG, ClipSpec, Preprocessing

OF_TAGS = 224  # pixels that named architectures read where nothing else is known
BESIDE = (OPEN_CLIP_CONFIG, "preprocess_cfg.json", "preprocessor_config.json", "clip.json")
"""Files beside a checkpoint that say how its pictures were prepared: of open_clip, Hugging Face and our own folders."""


@dataclass(frozen=True)
class Backbone:
    """A CLIP whose weights are on this machine."""

    architecture: Annotated[
        str, "Name of an open_clip architecture, a .json file with its configuration, or a folder with it."
    ] = "ViT-B-16"
    pretrained: Annotated[str | None, "Tag of open_clip's weights on this machine; none with --checkpoint."] = "openai"
    checkpoint: Annotated[str | None, "File of weights, or a folder with them, instead of a tag."] = None
    image_size: Annotated[int | None, "Side in pixels that the backbone reads; default: its configuration's."] = None
    mean: Annotated[Floats, "Subtracted per channel from pixels in [0, 1], as when the weights were trained."] = ()
    std: Annotated[Floats, "What pixels were then divided by."] = ()

    @cached_property
    def configuration(self) -> str | dict[str, Any]:
        """The architecture: a name, or the content of its file. Raises ValueError for a file that cannot be read."""
        path = Path(self.architecture)
        path = path / OPEN_CLIP_CONFIG if (path / OPEN_CLIP_CONFIG).is_file() else path
        if path.suffix != ".json":
            return self.architecture
        content = read_object(path)
        found = content.get("model_cfg", content)
        if not isinstance(found, dict):
            raise ValueError(
                f"{path} must contain embed_dim, vision_cfg and text_cfg, as open_clip's configurations do"
            )
        return found

    @property
    def weights(self) -> Path | None:
        """The file of weights, of a folder the one that `amalgam pretrain` writes; None if a tag names them."""
        if self.checkpoint is None:
            return None
        path = Path(self.checkpoint)
        return path / CLIP_WEIGHTS if path.is_dir() else path

    @cached_property
    def _preparation(self) -> tuple[Mapping[str, Any], str]:
        """What is known of the preprocessing, and from where."""
        if bool(self.mean) != bool(self.std):
            raise ValueError("--mean and --std belong together: give both")
        if self.mean:
            return {"mean": self.mean, "std": self.std}, "--mean and --std"
        if self.checkpoint is None:
            if not isinstance(self.configuration, str):
                raise ValueError(f"{self.architecture} has no weights of a tag: give --checkpoint, a file")
            # Those of other tags are compared with what open_clip knows before anything runs, and refused.
            return {}, f"OpenAI's values, which weights {self.pretrained!r} must have been trained with"
        assert self.weights is not None
        folder = self.weights.parent
        for name in BESIDE:
            if (folder / name).is_file() and (found := _preprocessing_in(read_object(folder / name))):
                return found, str(folder / name)
        raise ValueError(
            f"nothing says how images were prepared for {self.checkpoint}: give --mean and --std (OpenAI's are "
            f"{_listed(_default('mean'))} and {_listed(_default('std'))}), or put {BESIDE[0]} beside it"
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """How it reads pictures. Raises ValueError if nobody says so."""
        known, _ = self._preparation
        configured = self.configuration
        vision = configured.get("vision_cfg", {}) if isinstance(configured, dict) else {}
        size = self.image_size or known.get("size") or vision.get("image_size") or OF_TAGS
        square = (size, size) if isinstance(size, int) else tuple(size)
        return Preprocessing(**{**known, "size": square})

    @property
    def spec(self) -> ClipSpec:
        """What the model is built from."""
        return ClipSpec(
            architecture=self.configuration,
            pretrained=None if self.checkpoint else self.pretrained,
            checkpoint=None if self.weights is None else str(self.weights),
            preprocessing=self.preprocessing,
        )

    @property
    def opened(self) -> OpenedConfig:
        """The weights; of a file also its content, for another one may come to lie at its place."""
        file = self.weights
        if file is None or not file.is_file():
            return OpenedConfig(clip=self.spec)
        with file.open("rb") as content:
            return OpenedConfig(clip=self.spec, digest=hashlib.file_digest(content, "sha256").hexdigest()[:16])

    @property
    def derived(self) -> dict[str, str]:
        """What was derived from the flags, in words."""
        read = self.preprocessing
        return {
            "pictures": f"{read.size[0]} pixels, mean {_listed(read.mean)}, deviation {_listed(read.std)}",
            "images prepared as": self._preparation[1],
        }


@dataclass(frozen=True)
class Wording:
    """What classes are called in the prompts that make the zero-shot head."""

    templates: Annotated[
        Texts, 'Prompt templates: a set (openai, simple, ...) or sentences such as "a photo of a {}".'
    ] = ()
    class_names: Annotated[Texts, "What classes are called, in the order of their labels; default: their folders."] = ()

    def applied(self, suite: Suite) -> Suite:
        """The suite in these words. Raises ValueError for another number of names, and templates without a slot."""
        changes: dict[str, Any] = {}
        if self.templates:
            is_set = len(self.templates) == 1 and SLOT not in self.templates[0]
            changes["templates"] = self.templates[0] if is_set else templates_of(self.templates)
            templates_of(changes["templates"])
        if self.class_names:
            if len(self.class_names) != len(suite.class_names):
                raise ValueError(
                    f"--class-names has {len(self.class_names)} names, the suite has {len(suite.class_names)} classes: "
                    f"{', '.join(suite.class_names[:5])} ..."
                )
            changes["class_names"] = checked_names(self.class_names)
        return suite.model_copy(update=changes)


def _preprocessing_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, deviation and, where given, size in a file of open_clip, Hugging Face or ours; empty without the first."""
    given = content.get("preprocess_cfg") or content.get("preprocessing") or content
    mean, std = (given.get(name) or given.get(f"image_{name}") for name in ("mean", "std"))
    if not mean or not std:
        return {}
    size = given.get("size") or given.get("crop_size")
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    found = {"mean": tuple(mean), "std": tuple(std), "size": size}
    found |= {name: given[name] for name in ("interpolation", "resize_mode") if isinstance(given.get(name), str)}
    return {name: value for name, value in found.items() if value}


def _default(name: str) -> tuple[float, ...]:
    default: tuple[float, ...] = Preprocessing.model_fields[name].default
    return default


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
