"""Measure autoencoders on the images of test sets: in distribution, on shifts that pre-training saw, on others.

A step of its own, so that no autoencoder, and nothing that is fine-tuned with one, depends on a test image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.saes import ATOMS, SAES, ChosenSAE, SAEsConfig, agreement, identity_of, numbers
from amalgam.tasks.clip.testing.test_sets import TestSet, check_test_sets
from amalgam.tasks.scoring.results import Network, Result

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.clip.zero_shot import Classifier
    from amalgam.tasks.data.images import Images
    from amalgam.tasks.sae.autoencoder import SparseAutoencoder

BATCH = 512  # images encoded at once


class SAEQualityConfig(Config):
    """Autoencoders measured on the images of test sets, as the frozen encoder sees them."""

    saes: tuple[tuple[str, SAEsConfig], ...]
    """What each step of autoencoders is called, and what it has trained, in the order of the steps."""
    test_sets: tuple[TestSet, ...]
    seed: int = 0
    """The repetition that the results belong to."""

    @model_validator(mode="after")
    def _means_make_sense(self) -> SAEQualityConfig:
        check_test_sets(self.test_sets)
        for name, saes in self.saes:
            if "/" in name or [one for one, _ in self.saes].count(name) > 1:
                raise ValueError(f"steps of autoencoders need different names without '/', got {name!r}")
            if len({spec.model_copy(update={"seed": 0}) for spec in saes.specs}) > 1:
                raise ValueError(f"means are over the autoencoders of {name!r}: they may differ in their seed alone")
        return self


def measure_saes(config: SAEQualityConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the table of results, each autoencoder on each test set, from `saes` and the frozen `classifier`.

    Then come means over a step's autoencoders and a role's test sets, and how alike the atoms of several autoencoders
    are; the summary has these as `NAME/role/measure` and `NAME/atoms/stability`.
    """
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.tasks.data.opening import open_source

    classifier = load_classifier(inputs["classifier"]).to(work.device)
    backbone, width = read_about(inputs["classifier"]).backbone, classifier.head.get_parameter("weight").shape[1]
    groups = {
        name: _read(folder, saes, width, backbone, work.device)
        for (name, saes), folder in zip(config.saes, inputs["saes"], strict=True)
    }
    rows = list[Result]()
    for test_set in config.test_sets:
        images = open_source(test_set.source, work.data_root)
        rows += _measured(test_set, images, classifier, groups, config.seed, work.device)
    means = _means(rows) + [
        Result(identity_of(name, seed=config.seed), ATOMS, None, "stability", agreement([*saes.values()]))
        for name, saes in groups.items()
        if len(saes) > 1
    ]
    write_results(rows + means, work.out)
    return {f"{mean.network.method}/{mean.measure}": mean.value for mean in means}


def _read(folder: Path, saes: SAEsConfig, width: int, backbone: str, device: str) -> dict[int, SparseAutoencoder]:
    """The autoencoders of a step by their seeds."""
    chosen = {spec.seed: ChosenSAE(name=spec.name, normalised=saes.normalised) for spec in saes.specs}
    return {seed: SAES.read(folder, one, width, backbone).to(device) for seed, one in chosen.items()}


def _measured(
    test_set: TestSet,
    images: Images,
    classifier: Classifier,
    groups: Mapping[str, Mapping[int, SparseAutoencoder]],
    repetition: int,
    device: str,
) -> list[Result]:
    """The numbers of each autoencoder; images are encoded once for all."""
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
    return [
        Result(identity_of(name, seed, repetition), test_set.role, test_set.name, measure, number)
        for name, seed, meter in meters
        for measure, number in numbers(meter.result()).items()
    ]


def _head(test_set: TestSet, classifier: Classifier) -> Tensor | None:
    """The head, if the classes of the test set are those of the head."""
    own = test_set.columns or test_set.templates
    return None if own else classifier.head.get_parameter("weight").detach()


def _means(rows: Sequence[Result]) -> list[Result]:
    """The mean of each measure over a step's autoencoders and a role's test sets."""
    values: dict[tuple[Network, str, str], list[float]] = {}
    for row in rows:
        network = row.network.model_copy(update={"member": None})
        values.setdefault((network, row.role, row.metric), []).append(row.value)
    return [Result(network, role, None, metric, fmean(of)) for (network, role, metric), of in values.items()]


SAE_QUALITY = Kind("sae_quality", measure_saes, SAEQualityConfig, version=3, expect=Expect(5, 1_000_000))
