"""Explain what fine-tuning changed: two classifiers and an autoencoder in, one page and its tables out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amalgam.pipeline.reports.explanation.cards import Dictionary
from amalgam.pipeline.reports.explanation.flips import FlipsWriter
from amalgam.pipeline.reports.explanation.head import head
from amalgam.pipeline.reports.explanation.labels import read_labels, write_labels
from amalgam.pipeline.reports.explanation.page import explanation_report
from amalgam.pipeline.reports.explanation.pictured import Stream, draw
from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.pipeline.reports.explanation.tables import NamedExplanation, write_table, write_tables
from amalgam.pipeline.store.clip_checkpoints import (
    ClassifierInfo,
    load_classifier,
    read_about,
    read_sae,
    sae_key,
)
from amalgam.tasks.clip.zero_shot import Classifier, Head, TextEncoder
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Batch, batches
from amalgam.tasks.explain.comparison import Comparison
from amalgam.tasks.explain.explanation import Explainer, Explanation
from amalgam.tasks.explain.latents.cards import cards_of
from amalgam.tasks.explain.latents.new import second_autoencoder
from amalgam.tasks.explain.latents.table import pixel_embedding
from amalgam.tasks.explain.names import Names, calibrated, embed, name_latents, shown
from amalgam.tasks.explain.vocabulary import Concept, Truth
from amalgam.tasks.sae.config import FeatureInfo


@dataclass(frozen=True)
class Domain:
    """Labelled images of one domain."""

    name: str
    images: Images


@dataclass(frozen=True)
class Material:
    """On which images something is explained, and in which words."""

    domains: tuple[Domain, ...]
    clip: TextEncoder | None = None
    """Encodes the words; None leaves latents without names."""
    concepts: tuple[Concept, ...] = ()
    """The words."""
    truth: Truth | None = None
    """Which words images are known to show."""


@dataclass(frozen=True)
class Looked:
    """A batch of images as both encoders see it."""

    before: Tensor
    after: Tensor
    labels: Tensor
    domains: Tensor
    embeddings: Tensor


def explain(request: ExplainRequest, material: Material, folder: Path) -> NamedExplanation:
    """Write the page, `explanation.json` and the Parquet tables into a folder, and return what they tell.

    Raises ValueError, before anything is encoded, if classifiers, autoencoder, images and words do not fit together.
    """
    about, networks, by = _opened(request)
    _check(material, about, networks[0])
    key = sae_key(request.sae / (request.sae_name or ""))
    labels = read_labels(request.labels, key, by.num_latents)
    found, kept = _look(request, material, networks, by, folder)
    explanation = replace(_named(request, material, about, found, by), labels=labels)
    dictionaries = [Dictionary("original", by.sae, explanation, found.alive.nonzero().flatten())]
    if kept:
        dictionaries.append(_second(request, material, about, by, kept))
    write_tables(explanation, folder, {"backbone": about.backbone, "autoencoder": key})
    write_labels(labels, key, folder)
    stream = Stream(tuple(domain.images for domain in material.domains), request.device)
    drawn = draw(dictionaries, stream, networks[1].encoder, key)
    for name, table in (("cards", drawn.cards), ("pictures", drawn.pictures)):
        write_table(table, folder / f"{name}.parquet")
    settings = _settings(request, material, about)
    explanation_report(explanation, drawn, stream.pixels, head(request, by.sae.info), settings).write(folder)
    return explanation


def _named(
    request: ExplainRequest, material: Material, about: ClassifierInfo, found: Explanation, by: Comparison
) -> NamedExplanation:
    domains = tuple(domain.name for domain in material.domains)
    names, atom_names = (_names(material, found.alive, directions) for directions in (found.directions, by.atoms))
    truth = None
    if names is not None:
        told = material.truth or Truth.of_names(about.class_names, domains, names.words)
        truth = shown(found.meaning, told, names.words)
        names = calibrated(names, truth, told.known, request.name_error)
    return NamedExplanation(
        title=request.title,
        class_names=about.class_names,
        domains=domains,
        found=found,
        names=names,
        atom_names=atom_names,
        shown=truth,
        cards=cards_of(by, found.active),
    )


def _second(
    request: ExplainRequest, material: Material, about: ClassifierInfo, by: Comparison, kept: Sequence[Looked]
) -> Dictionary:
    """The latents that are new after fine-tuning."""
    before, after = (
        torch.cat(features) for features in zip(*((part.before, part.after) for part in kept), strict=True)
    )
    second = second_autoencoder(by.sae, before, after)
    other = replace(by, sae=second.sae)
    explainer = Explainer(other, len(material.domains), request.top_n)
    for part in kept:
        explainer.update(other.of(part.before, part.after, part.labels, part.domains), part.embeddings)
    explanation = _named(request, material, about, explainer.result(), other)
    return Dictionary("tuned", second.sae, explanation, second.latents, second.likeness)


def _settings(request: ExplainRequest, material: Material, about: ClassifierInfo) -> dict[str, Any]:
    """How the page was made, for its readers."""
    return {
        "before": str(request.before),
        "after": str(request.after),
        "autoencoder": str(request.sae / (request.sae_name or "")),
        "backbone": about.backbone,
        "images": {domain.name: domain.images.fingerprint for domain in material.domains},
        "words": [concept.word for concept in material.concepts],
    }


def _opened(request: ExplainRequest) -> tuple[ClassifierInfo, tuple[Classifier, Classifier], Comparison]:
    """What the classifiers are, both of them, and what their features are read by, on the device."""
    old, new = read_about(request.before), read_about(request.after)
    for name in ("backbone", "class_names"):
        if getattr(old, name) != getattr(new, name):
            raise ValueError(f"{request.before} and {request.after} differ in {name}: one is not the other fine-tuned")
    before, after = (load_classifier(folder).to(request.device) for folder in (request.before, request.after))
    about = FeatureInfo(width=before.head.in_features, normalised=True, backbone=old.backbone)
    sae = read_sae(request.sae, request.sae_name, about).to(request.device)
    assert isinstance(before.head, Head) and isinstance(after.head, Head)
    return old, (before, after), Comparison(sae, before.head, after.head)


def _check(material: Material, about: ClassifierInfo, network: Classifier) -> None:
    classes, sides = len(about.class_names), network.encoder.get_submodule("visual").image_size
    shape = (3, *(sides if isinstance(sides, tuple | list) else (sides, sides)))
    for domain in material.domains:
        if domain.images.shape != shape:
            raise ValueError(f"the images of {domain.name!r} are {domain.images.shape}, the classifiers read {shape}")
        if len(domain.images.class_names) != classes:
            raise ValueError(
                f"the images of {domain.name!r} have {len(domain.images.class_names)} classes, "
                f"the classifiers have {classes}"
            )
    if material.truth:
        material.truth.require(classes, len(material.domains))
    if len(material.concepts) == 1:
        raise ValueError(f"latents cannot be named by one word, {material.concepts[0].word!r}: give several")


@torch.no_grad()
def _look(
    request: ExplainRequest, material: Material, networks: tuple[Classifier, Classifier], by: Comparison, folder: Path
) -> tuple[Explanation, list[Looked]]:
    """The explanation, and everything that was looked at if new latents are wanted."""
    explainer, kept = Explainer(by, len(material.domains), request.top_n), list[Looked]()
    with FlipsWriter(folder) as writer:
        for number, batch in _batches(request, material):
            before, after = (network.encoder(batch.images) for network in networks)
            domains, embeddings = torch.full_like(batch.labels, number), pixel_embedding(batch.images)
            flips = explainer.update(by.of(before, after, batch.labels, domains), embeddings)
            writer.write(material.domains[number].name, batch.ids, batch.labels, flips)
            if request.wants_new_latents(by.num_latents):
                kept.append(Looked(before, after, batch.labels, domains, embeddings))
    return explainer.result(), kept


def _batches(request: ExplainRequest, material: Material) -> Iterator[tuple[int, Batch]]:
    for number, domain in enumerate(material.domains):
        everyone = torch.arange(len(domain.images))
        for batch in batches(domain.images, everyone, request.batch_size, device=request.device):
            yield number, batch


def _names(material: Material, alive: Tensor, directions: Tensor) -> Names | None:
    if material.clip is None or not material.concepts:
        return None
    texts = embed(material.clip, material.concepts).to(directions)
    words = [concept.word for concept in material.concepts]
    generator = torch.Generator().manual_seed(0)
    return name_latents(directions, texts, words, alive, generator)
