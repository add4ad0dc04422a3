"""Train the sparse autoencoders of a sweep on staged features, and measure each on every domain of those."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.pipeline.store.tables.features import FeatureTable
    from amalgam.tasks.sae.autoencoder import SparseAutoencoder
    from amalgam.tasks.sae.metrics import Quality

QUALITY = "quality.json"
BATCH = 4096  # feature vectors measured at once


class ChosenSAE(Config):
    """One of the autoencoders of a step, and which features its reader gives it."""

    name: str
    """Its folder."""
    normalised: bool = True
    """Whether its inputs are features of norm 1; one that was trained on others is refused."""


class SAEsConfig(Config):
    """Sparse autoencoders trained in one pass over staged features."""

    specs: tuple[SAESpec, ...] = Field(min_length=1)
    training: SAETrainConfig
    normalised: bool = True
    """Whether features are scaled to norm 1 first, as heads read them; else they are as the encoder gave them."""

    @property
    def first(self) -> ChosenSAE:
        """The one that fine-tuning uses."""
        return ChosenSAE(name=self.specs[0].name, normalised=self.normalised)


def train_saes(config: SAEsConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write a folder for each autoencoder and `quality.json`: how good each is on the features of every domain."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about, save_sae
    from amalgam.pipeline.store.tables.features import as_wanted, read_features
    from amalgam.tasks.sae.train import train

    backbone = read_about(inputs["classifier"]).backbone
    table = read_features(inputs["features"], backbone=backbone)
    about = FeatureInfo(width=table.features.shape[1], normalised=config.normalised, backbone=backbone)
    saes = train(
        as_wanted(table.features.to(work.device), about),
        about,
        config.specs,
        config.training,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
    )
    for spec, sae in zip(config.specs, saes, strict=True):
        save_sae(sae, work.out / spec.name)
    head = load_classifier(inputs["classifier"]).head.get_parameter("weight").detach()
    qualities = {spec.name: _by_domain(sae, table, head) for spec, sae in zip(config.specs, saes, strict=True)}
    (work.out / QUALITY).write_text(json.dumps({n: _described(q) for n, q in qualities.items()}, indent=1) + "\n")
    return {**_summary(qualities), **stability(config.specs, saes)}


def stability(specs: Sequence[SAESpec], saes: Sequence[SparseAutoencoder]) -> dict[str, float]:
    """Mean cosine of matched atoms between autoencoders that differ in their seed alone, over all such pairs."""
    alike: dict[str, list[SparseAutoencoder]] = defaultdict(list)
    for spec, sae in zip(specs, saes, strict=True):
        alike[spec.name_without_seed].append(sae)
    return {f"{name}/stability": agreement(group) for name, group in alike.items() if len(group) > 1}


def agreement(saes: Sequence[SparseAutoencoder]) -> float:
    """Mean cosine of matched atoms, over all pairs of two or more autoencoders of one size."""
    from amalgam.tasks.sae.metrics import matched_cosines

    pairs = combinations([sae.decoder.detach() for sae in saes], 2)
    return fmean(matched_cosines(one, other).mean().item() for one, other in pairs)


def numbers(quality: Quality) -> dict[str, float]:
    """What was measured, by name."""
    named = {
        "fvu": quality.fvu,
        "cosine": quality.cosine,
        "l0": quality.l0,
        "dead_share": quality.dead_share,
        "accuracy": quality.accuracy,
        "reconstruction_accuracy": quality.reconstruction_accuracy,
        "monosemanticity": quality.monosemanticity,
        "similarity": quality.similarity,
    }
    return {name: value for name, value in named.items() if value is not None}


def _by_domain(sae: SparseAutoencoder, table: FeatureTable, head: Tensor) -> dict[str, Quality]:
    from amalgam.pipeline.store.tables.features import as_wanted
    from amalgam.tasks.sae.metrics import quality_by_domain

    parts = (column.split(BATCH) for column in (table.features, table.labels, table.domain_codes))
    batches = (
        (as_wanted(features.to(sae.decoder.device), sae.info), labels, codes)
        for features, labels, codes in zip(*parts, strict=True)
    )
    return {table.domains[code]: quality for code, quality in quality_by_domain(sae, batches, head).items()}


def _described(qualities: Mapping[str, Quality]) -> dict[str, Any]:
    """What readers of the report may plot, by domain."""
    return {domain: numbers(quality) | _histogram(quality) for domain, quality in qualities.items()}


def _histogram(quality: Quality) -> dict[str, list[float]]:
    counts, edges = quality.firing_histogram()
    return {"firing_counts": counts.tolist(), "firing_rate_edges": edges.tolist()}


def _summary(qualities: Mapping[str, Mapping[str, Quality]]) -> dict[str, float]:
    return {
        f"{name}/{domain}/{metric}": value
        for name, domains in qualities.items()
        for domain, quality in domains.items()
        for metric, value in numbers(quality).items()
    }


def read_chosen(folder: Path, chosen: ChosenSAE | None, width: int, backbone: str) -> SparseAutoencoder | None:
    """One of the autoencoders; None if none is chosen.

    Raises ValueError if it was trained on features of another width or backbone, or scaled otherwise.
    """
    from amalgam.pipeline.store.clip_checkpoints import read_sae

    if chosen is None:
        return None
    features = FeatureInfo(width=width, normalised=chosen.normalised, backbone=backbone)
    return read_sae(folder, chosen.name, features)


SAES = Kind("saes", train_saes, SAEsConfig, expect=Expect(10, 1_000_000), read=read_chosen)
