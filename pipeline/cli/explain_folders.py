"""`amalgam explain`: two classifier folders in, a page and its tables out; no store and no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from amalgam.pipeline.engine.host import require_device
from amalgam.pipeline.reports.explanation.build import Looked, Request, explain
from amalgam.pipeline.reports.explanation.sentences import headline, warnings
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.clip_checkpoints import load_clip, read_about, weights_root
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.suites import Pictures
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import Images, load
from amalgam.tasks.explain.vocabulary import concepts_of
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import Preprocessing


@dataclass(frozen=True)
class Asked:
    """What a user asked to be explained."""

    before: Path
    after: Path
    sae: Path
    domains: Mapping[str, str]
    """Names of data sets, by what their domain is called."""
    data_root: Path | None
    out: Path
    backbone: Path | None
    words: tuple[str, ...]
    """Empty takes the names of the classes."""
    templates: tuple[str, ...]
    """Empty takes those of the classifier."""
    top_n: int
    batch_size: int
    title: str
    device: str


def explain_folders(asked: Asked) -> list[str]:
    """Write the page and its tables to `asked.out`; what they say, in sentences.

    Raises ValueError, before anything lies there, for any bad input.
    """
    require_device(asked.device)
    with new_folder(asked.out) as folder:
        about = read_about(asked.before)
        prepared = build_clip(about.clip, weights_root(asked.data_root), filled=False).preprocessing
        looked = tuple(
            Looked(domain, in_order(load(as_prepared(name, prepared), "test", asked.data_root), about.class_names))
            for domain, name in asked.domains.items()
        )
        clip = load_clip(asked.backbone, weights_root(asked.data_root)) if asked.backbone else None
        concepts = concepts_of(asked.words or about.class_names, asked.templates or about.templates) if clip else ()
        told = explain(
            Request(
                asked.before, asked.after, asked.sae, None, looked, clip, concepts, None,
                asked.top_n, asked.batch_size, asked.title, asked.device,
            ),
            folder,
        )  # fmt: skip
    return [*warnings(told), *headline(told)]


def as_prepared(name: str, prepared: Preprocessing) -> DataSpec:
    """A data set whose pictures are made as an encoder wants them."""
    return Pictures.of(prepared).stored(name).data


def in_order(images: Images, class_names: tuple[str, ...]) -> Images:
    """The images with their classes in this order, where their names are the same; others are left as they are."""
    names, wanted = list(map(spoken, images.class_names)), list(map(spoken, class_names))
    if sorted(names) != sorted(wanted) or len(set(wanted)) < len(wanted):
        return images
    labels = torch.tensor([wanted.index(name) for name in names])[images.labels]
    return replace(images, labels=labels, class_names=class_names)
