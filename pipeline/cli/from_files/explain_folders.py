"""`amalgam explain`: two classifier folders in, a page and its tables out; no store and no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from amalgam.pipeline.engine.host import require_device
from amalgam.pipeline.reports.explanation.build import Domain, Material, explain
from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.pipeline.reports.explanation.sentences import headline, warnings
from amalgam.pipeline.reports.explanation.several import explain_several
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.clip_checkpoints import load_clip, read_about, weights_root
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.suite import PictureSettings
from amalgam.tasks.data.images import Images, load
from amalgam.tasks.explain.vocabulary import concepts_of
from amalgam.tasks.models.clip import build_clip


@dataclass(frozen=True)
class Words:
    """What latents may be named by."""

    backbone: Path | None = None
    """Folder of the CLIP whose text tower encodes the words; None leaves latents without names."""
    words: tuple[str, ...] = ()
    """Empty takes the names of the classes."""
    templates: tuple[str, ...] = ()
    """Empty takes those of the classifier."""


def explain_folders(
    request: ExplainRequest,
    others: Sequence[Path],
    domains: Mapping[str, str],
    words: Words,
    data_root: Path | None,
    out: Path,
) -> list[str]:
    """Write the page and its tables to `out`; what they say, in sentences.

    With `others`, further networks fine-tuned from the same one, a folder for each and a page that compares them.
    `domains` are names of data sets, by what their domain is called. Raises ValueError, before anything lies in `out`,
    for any bad input.
    """
    require_device(request.device)
    with new_folder(out) as folder:
        about = read_about(request.before)
        clip_before = build_clip(about.clip, weights_root(data_root), filled=False)
        prepared = PictureSettings.of(clip_before.preprocessing)
        opened = tuple(
            Domain(domain, in_order(load(prepared.stored(name).data, "test", data_root), about.class_names))
            for domain, name in domains.items()
        )
        clip = load_clip(words.backbone, weights_root(data_root)) if words.backbone else None
        concepts = concepts_of(words.words or about.class_names, words.templates or about.templates) if clip else ()
        material = Material(opened, clip, concepts)
        if not others:
            found = explain(request, material, folder)
            return [*warnings(found), *headline(found)]
        several = explain_several(request, [request.after, *others], material, folder)
    return [f"{name}: {headline(found)[0]}" for name, found in several.items()]


def in_order(images: Images, class_names: tuple[str, ...]) -> Images:
    """The images with their classes in this order, where their names are the same; others are left as they are."""
    names, wanted = list(map(spoken, images.class_names)), list(map(spoken, class_names))
    if sorted(names) != sorted(wanted) or len(set(wanted)) < len(wanted):
        return images
    labels = torch.tensor([wanted.index(name) for name in names])[images.labels]
    return replace(images, labels=labels, class_names=class_names)
