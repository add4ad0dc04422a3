"""Measure autoencoders on the images of test sets: in distribution, on shifts that pre-training saw, on others.

A step of its own, so that no autoencoder, and nothing that is fine-tuned with one, depends on a test image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.saes import QUALITY, SAES, ChosenSAE, SAEsConfig, agreement, numbers
from amalgam.tasks.clip.testing.test_sets import TestSet, check_test_sets

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.clip.zero_shot import Classifier
    from amalgam.tasks.data.images import Images
    from amalgam.tasks.sae.autoencoder import SparseAutoencoder

BATCH = 512  # images encoded at once
PLACE = ("saes", "seed", "test_set", "role")  # what of a row is no measure
Row = dict[str, Any]


class SAEQualityConfig(Config):
    """Autoencoders measured on the images of test sets, as the frozen encoder sees them."""

    saes: tuple[tuple[str, SAEsConfig], ...]
    """What each step of autoencoders is called, and what it has trained, in the order of the steps."""
    test_sets: tuple[TestSet, ...]

    @model_validator(mode="after")
    def _means_make_sense(self) -> SAEQualityConfig:
        check_test_sets(self.test_sets)
        for name, saes in self.saes:
            if "/" in name or [one for one, _ in self.saes].count(name) > 1:
                raise ValueError(f"steps of autoencoders need names of their own, without '/', got {name!r}")
            if len({spec.model_copy(update={"seed": 0}) for spec in saes.specs}) > 1:
                raise ValueError(f"means are over the autoencoders of {name!r}: they may differ in their seed alone")
        return self


def measure_saes(config: SAEQualityConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `quality.json`, a row for each autoencoder and test set, from `saes` and the frozen `classifier`.

    The summary is `NAME/role/measure`, the mean over a step's autoencoders and a role's test sets, and `NAME/stability`
    where a step has several autoencoders.
    """
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.tasks.data.opening import open_source

    classifier = load_classifier(inputs["classifier"]).to(work.device)
    backbone, width = read_about(inputs["classifier"]).backbone, classifier.head.get_parameter("weight").shape[1]
    groups = {
        name: _read(folder, saes, width, backbone, work.device)
        for (name, saes), folder in zip(config.saes, inputs["saes"], strict=True)
    }
    rows = []
    for test_set in config.test_sets:
        images = open_source(test_set.source, work.data_root)
        rows += _measured(test_set, images, classifier, groups, work.device)
    (work.out / QUALITY).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    stability = {f"{name}/stability": agreement([*saes.values()]) for name, saes in groups.items() if len(saes) > 1}
    return {**_means(rows), **stability}


def _read(folder: Path, saes: SAEsConfig, width: int, backbone: str, device: str) -> dict[int, SparseAutoencoder]:
    """The autoencoders of a step by their seeds."""
    chosen = {spec.seed: ChosenSAE(name=spec.name, normalised=saes.normalised) for spec in saes.specs}
    return {seed: SAES.read(folder, one, width, backbone).to(device) for seed, one in chosen.items()}


def _measured(
    test_set: TestSet,
    images: Images,
    classifier: Classifier,
    groups: Mapping[str, Mapping[int, SparseAutoencoder]],
    device: str,
) -> list[Row]:
    """A row for each autoencoder; images are encoded once for all."""
    import torch

    from amalgam.pipeline.store.tables.features import as_wanted
    from amalgam.tasks.data.loading import batches
    from amalgam.tasks.sae.metrics import QualityMeter

    head = _head(test_set, classifier)
    meters = [(name, seed, QualityMeter(sae, head)) for name, saes in groups.items() for seed, sae in saes.items()]
    with torch.no_grad():
        for batch in batches(images, torch.arange(len(images)), BATCH, device=device):
            features = classifier.encoder(batch.images)
            for _, _, meter in meters:
                meter.update(as_wanted(features, meter.sae.info), batch.labels)
        place = {"test_set": test_set.name, "role": test_set.role}
        return [{"saes": name, "seed": seed} | place | numbers(meter.result()) for name, seed, meter in meters]


def _head(test_set: TestSet, classifier: Classifier) -> Tensor | None:
    """The head, if the classes of the test set are those of the head."""
    own = test_set.columns or test_set.templates
    return None if own else classifier.head.get_parameter("weight").detach()


def _means(rows: Sequence[Row]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for measure in (name for name in row if name not in PLACE):
            values.setdefault(f"{row['saes']}/{row['role']}/{measure}", []).append(row[measure])
    return {name: fmean(of_name) for name, of_name in values.items()}


SAE_QUALITY = Kind("sae_quality", measure_saes, SAEQualityConfig, version=2, expect=Expect(5, 1_000_000))
