"""Test the networks between a frozen classifier and a fine-tuned one, or a soup of several, on everything in one pass.

No network is written to disk. Every prediction is, and all scores are computed from that file.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.path_scores import path_scores, summary
from amalgam.pipeline.steps.backbones import weights_root
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.steps.robustness_config import VALIDATION, PathConfig
from amalgam.pipeline.steps.tuning import open_labelled, require_classes
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, load_classifier, load_clip, read_about, read_sae
from amalgam.pipeline.store.predictions import PREDICTIONS, Answers, write_predictions
from amalgam.tasks.clip.finetuning.interpolate import greedy_soup, soup
from amalgam.tasks.clip.finetuning.similarity import DriftMeter
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.evaluate import Examination, Networks, examine, kept, path_networks
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.zero_shot import Classifier, Head, Projection, zero_shot_head
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.config import FeatureInfo
from amalgam.tasks.scoring.metrics import METRICS, Predictions, value
from amalgam.tasks.training.averaging import State

SCORES = "scores.json"
BEFORE = "alpha=0"
"""What the network before fine-tuning is called."""
MEMORY_SHARE = 0.5  # of what is free, that networks kept from batch to batch may take


def evaluate_path(config: PathConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write predictions, scores with intervals, and a summary of `role/metric@network` and `set/NAME/metric@network`.

    `before` is a classifier. `after` is another, or several that are made a soup of, the greedy one by held-out images;
    its weights are mixed with those of `before` by every alpha. Test sets with templates need `backbone`; drift
    through an autoencoder, `sae`. Drift is that of the last network.
    """
    session = _Session(config, inputs, work)
    networks = session.networks()
    meters = {name: DriftMeter(session.sae) for name in (VALIDATION, *(one.name for one in config.test_sets))}
    write_predictions(work.out / PREDICTIONS, session.answers(networks, meters))
    official = {test_set.name: test_set.metric for test_set in config.test_sets}
    rows = path_scores(work.out / PREDICTIONS, official)
    (work.out / SCORES).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return {
        **summary(rows),
        **_drift_metrics(meters, list(networks)[-1]),
        **{f"set/{name}/skipped": count for name, count in session.skipped.items() if count},
        "data_fingerprint": session.validation.images.fingerprint,
    }


@dataclass(frozen=True)
class _Session:
    """What a step was given, opened."""

    config: PathConfig
    inputs: Mapping[str, Any]
    work: Workspace
    skipped: dict[str, int] = field(default_factory=dict)
    """By test set, pictures that were left out because they are damaged."""

    @cached_property
    def before(self) -> Classifier:
        return load_classifier(self.inputs["before"]).to(self.work.device)

    @cached_property
    def about(self) -> ClassifierInfo:
        return read_about(self.inputs["before"])

    @cached_property
    def validation(self) -> Examination:
        images, _, held_out = open_labelled(self.config.labelled, self.work.data_root)
        require_classes(self.about.class_names, images)
        return Examination(images, torch.from_numpy(held_out))

    @cached_property
    def sae(self) -> SparseAutoencoder | None:
        if self.config.sae is None:
            return None
        chosen = self.config.sae
        features = FeatureInfo(
            width=self.before.head.in_features, normalised=chosen.normalised, backbone=self.about.backbone
        )
        return read_sae(self.inputs["sae"], chosen.name, features).to(self.work.device)

    def networks(self) -> Networks:
        """The path, and what makes its weights on the device."""
        before = self.before.state_dict()
        tuned = [load_classifier(folder).to(self.work.device).state_dict() for folder in _folders(self.inputs)]
        return kept(path_networks(before, self._after(before, tuned), self.config.alphas), _spare(self.work.device))

    def _after(self, before: State, tuned: Sequence[State]) -> State:
        if len(tuned) < 2:
            return tuned[0] if tuned else before
        return soup(tuned) if self.config.soup == "uniform" else greedy_soup(tuned, self._on_validation)

    def answers(self, networks: Networks, meters: Mapping[str, DriftMeter]) -> Iterator[Answers]:
        """What all networks say, one test set after another."""
        last = list(networks)[-1]
        frozen = None if BEFORE in networks else self.before.state_dict
        asked = [(VALIDATION, VALIDATION, lambda: self.validation)]
        asked += [(one.name, one.role, partial(self._examination, one)) for one in self.config.test_sets]
        for name, role, opened in asked:
            examination = replace(
                opened(), before=frozen, drift={last: meters[name]}, drift_images=self.config.drift_images
            )
            self.skipped[name] = examination.images.num_skipped
            for network, said in self._examine(networks, examination).items():
                yield Answers(name, role, network, said)

    def _examine(self, networks: Networks, examination: Examination) -> dict[str, Predictions]:
        return examine(
            self.before, networks, examination, batch_size=self.config.batch_size,
            precision=getattr(torch, self.config.precision), device=self.work.device,
        )  # fmt: skip

    def _on_validation(self, state: State) -> float:
        return value(METRICS["accuracy"], self._examine({"it": lambda: state}, self.validation)["it"])

    def _examination(self, test_set: TestSet) -> Examination:
        images = open_source(test_set.source, self.work.data_root)
        projection = Projection(test_set.columns, len(self.about.class_names)) if test_set.columns else None
        return Examination(images, head=self._own_head(test_set, images), projection=projection)

    def _own_head(self, test_set: TestSet, images: Images) -> Head | None:
        if not test_set.templates:
            return None
        if "backbone" not in self.inputs:
            raise ValueError(f"test set {test_set.name!r} needs a head made of words: give the step a backbone")
        clip = load_clip(self.inputs["backbone"], weights_root(self.work.data_root))
        clip.model.to(self.work.device)
        names = test_set.class_names or tuple(map(spoken, images.class_names))
        return zero_shot_head(clip, names, test_set.templates)


def _folders(inputs: Mapping[str, Any]) -> Sequence[Path]:
    """The fine-tuned classifiers: none, one or several."""
    after = inputs.get("after", ())
    return (after,) if isinstance(after, Path) else after


def _spare(device: str) -> int:
    """Bytes that networks may take."""
    if torch.device(device).type == "cuda":
        return int(MEMORY_SHARE * torch.cuda.mem_get_info()[0])
    return int(MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _drift_metrics(meters: Mapping[str, DriftMeter], network: str) -> dict[str, float]:
    """`drift/cka@alpha=1` of the held-out images, and `set/NAME/drift_cka@alpha=1` of each test set."""
    found = {name: meter.result() for name, meter in meters.items() if meter.num_examples}
    own = {f"drift/{name}@{network}": number for name, number in found.pop(VALIDATION, {}).items()}
    return own | {
        f"set/{test_set}/drift_{name}@{network}": number
        for test_set, numbers in found.items()
        for name, number in numbers.items()
    }
