"""Test the networks between a frozen classifier and a fine-tuned one, or a soup of several, on everything in one pass.

No network is written to disk. Every prediction is, and all scores are computed from that file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from amalgam.pipeline.engine.host import free_bytes
from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.robustness.config import DRIFT, WARNING
from amalgam.pipeline.steps.clip.saes import SAES, ChosenSAE
from amalgam.tasks.clip.testing.test_sets import VALIDATION, MetricName, TestSet, check_test_sets
from amalgam.tasks.data.sources import LabelledConfig, data_of
from amalgam.tasks.scoring.results import ALPHA, Network, Result

if TYPE_CHECKING:
    from amalgam.pipeline.store.tables.predictions import Answers
    from amalgam.tasks.clip.testing.evaluate import Networks
    from amalgam.tasks.clip.testing.session import Session
    from amalgam.tasks.clip.testing.similarity import DriftMeter

MEMORY_SHARE = 0.5  # of what is free, that networks kept from batch to batch may take
CLEARLY_AHEAD = 0.05  # of accuracy: more than chance explains on as many images
ALPHAS = tuple(step / 10 for step in range(11))  # the sweep of WiSE-FT (Wortsman et al. 2022)


class PathConfig(Config):
    """Networks between a frozen classifier and a fine-tuned one, or a soup of several, tested on everything."""

    labelled: LabelledConfig
    """What was fine-tuned on; its held-out images are the only ones by which anything is chosen."""
    test_sets: tuple[TestSet, ...]
    alphas: tuple[float, ...] = ALPHAS
    """Shares of the fine-tuned weights: 0 is the network before, 1 the one after; rising."""
    soup: Literal["uniform", "greedy"] = "greedy"
    """How several fine-tuned networks become one: all, or best first while held-out accuracy does not fall."""
    choose_by: MetricName = "accuracy"
    """The metric of held-out images that choices are made by."""
    sae: ChosenSAE | None = None
    """Which of the autoencoders measures drift; None measures it without."""
    drift_images: int = Field(default=1000, ge=0)
    """Images of every test set on which drift is measured, the first ones: paths without alpha 0 encode them anew."""
    batch_size: int = Field(default=512, ge=1)
    """Images per forward pass; it decides how sums are rounded."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the encoder under autocast."""
    compare_preparations: bool = False
    """Whether zero-shot is compared with what it would be if pictures were prepared otherwise."""
    identity: Network = Network(kind="classifier", method="fine-tuned")
    """What the results at alpha 1 are of: the method that fine-tuned, its strength, the seed."""

    @model_validator(mode="after")
    def _can_be_walked(self) -> PathConfig:
        check_test_sets(self.test_sets)
        if not self.alphas or list(self.alphas) != sorted(set(self.alphas)):
            raise ValueError(f"alphas must be increasing and not empty, got {self.alphas}")
        if not (self.alphas[0] >= 0 and self.alphas[-1] <= 1):
            raise ValueError(f"alphas must be in [0, 1], got {self.alphas}")
        if any(test_set.name == VALIDATION for test_set in self.test_sets):
            raise ValueError(f"{VALIDATION!r} is the name of the held-out images: rename the test set")
        return self


def evaluate_path(config: PathConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write predictions and the table of results; the summary has `role/metric@alpha=A` and `set/NAME/metric@alpha=A`.

    `before` is a classifier. `after` is another, or several that are made a soup of, the greedy one by held-out images;
    its weights are mixed with those of `before` by every alpha. Test sets with templates need `backbone`; drift
    through an autoencoder, `sae`. Drift is that of the last network.
    """
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.pipeline.store.measures import recorded
    from amalgam.pipeline.store.tables.predictions import PREDICTIONS, write_predictions
    from amalgam.tasks.clip.testing.evaluate import path_name
    from amalgam.tasks.clip.testing.similarity import DriftMeter

    session = _session(config, inputs, work)
    tuned = [load_classifier(folder).to(work.device).state_dict() for folder in _folders(inputs)]
    networks = session.networks(tuned, config.alphas, config.soup, int(MEMORY_SHARE * free_bytes(work.device)))
    backbone = read_about(inputs["before"]).backbone
    sae = SAES.read(inputs.get("sae"), config.sae, session.before.head.in_features, backbone)
    sae, skipped = sae and sae.to(work.device), dict[str, int]()
    meters = {name: DriftMeter(sae) for name in (VALIDATION, *(one.name for one in config.test_sets))}
    write_predictions(work.out / PREDICTIONS, _answers(session, networks, config.test_sets, meters, skipped))
    identities = {path_name(alpha): config.identity.with_setting(ALPHA, alpha) for alpha in config.alphas}
    official = {VALIDATION: config.choose_by} | {test_set.name: test_set.metric for test_set in config.test_sets}
    results = path_results(work.out / PREDICTIONS, official, identities)
    results += _drift(meters, identities[list(networks)[-1]], {one.name: one.role for one in config.test_sets})
    return {
        **recorded(results, work.out, by=(ALPHA,)),
        **{f"set/{name}/skipped": count for name, count in skipped.items() if count},
        **(_compared(session, config.test_sets, work) if config.compare_preparations else {}),
        "data_fingerprint": session.validation.images.fingerprint,
    }


def _compared(session: Session, test_sets: Sequence[TestSet], work: Workspace) -> Metrics:
    """Zero-shot accuracy of pictures prepared as they are and otherwise; a warning where another way is far ahead.

    On labelled images, and on every test set of the head's classes: drawings may show what photographs forgive.
    """
    from amalgam.tasks.clip.zero_shot import GIVEN, prepared_otherwise

    sets = {"labelled images": session.validation.images}
    sets |= {one.name: session.images(one) for one in test_sets if not one.templates and not one.columns}
    found = {name: prepared_otherwise(session.before, images, work.device) for name, images in sets.items()}
    leads = {(name, way): share - of[GIVEN] for name, of in found.items() for way, share in of.items()}
    name, best = max(leads, key=lambda pair: leads[pair])
    if leads[name, best] > CLEARLY_AHEAD:
        work.note(
            f"{WARNING} zero-shot is right on {100 * found[name][GIVEN]:.1f} % of {name} as they are prepared, "
            f"but on {100 * found[name][best]:.1f} % with the mean and deviation of {best}: check --mean and --std"
        )
    return {f"prepared/{name}/{way}": share for name, of in found.items() for way, share in of.items()}


def _session(config: PathConfig, inputs: Mapping[str, Any], work: Workspace) -> Session:
    """The inputs of the step, opened."""
    from torch import from_numpy

    from amalgam.pipeline.store.clip_checkpoints import load_classifier, load_clip, read_about, weights_root
    from amalgam.tasks.clip.testing.evaluate import Examination
    from amalgam.tasks.clip.testing.session import Session
    from amalgam.tasks.clip.zero_shot import require_head_classes
    from amalgam.tasks.data.opening import open_labelled, open_source

    class_names = read_about(inputs["before"]).class_names
    images, _, held_out = open_labelled(config.labelled, work.data_root)
    require_head_classes(class_names, images)
    backbone = inputs.get("backbone")
    return Session(
        before=load_classifier(inputs["before"]).to(work.device),
        class_names=class_names,
        validation=Examination(images, from_numpy(held_out)),
        images=lambda test_set: open_source(test_set.source, work.data_root),
        clip=partial(load_clip, backbone, weights_root(work.data_root)) if backbone else None,
        batch_size=config.batch_size,
        precision=config.precision,
        drift_images=config.drift_images,
        device=work.device,
    )


def _answers(
    session: Session,
    networks: Networks,
    test_sets: Sequence[TestSet],
    meters: Mapping[str, DriftMeter],
    skipped: dict[str, int],
) -> Iterator[Answers]:
    """What all networks answer, one test set after another; `skipped` is filled with numbers of damaged pictures."""
    from amalgam.pipeline.store.tables.predictions import Answers

    for name, role, examination in session.examinations(test_sets):
        skipped[name] = examination.images.num_skipped
        for network, predictions in session.answers(networks, examination, meters[name]).items():
            yield Answers(name, role, network, predictions)


def _folders(inputs: Mapping[str, Any]) -> Sequence[Path]:
    """The fine-tuned classifiers: none, one or several."""
    after = inputs.get("after", ())
    return (after,) if isinstance(after, Path) else after


def path_results(predictions: Path, official: Mapping[str, str], networks: Mapping[str, Network]) -> list[Result]:
    """The scores of every network on every test set, then the means over the test sets of each role.

    `official` is the metric of test sets that are not judged by accuracy alone, `networks` what the names in the file
    stand for. Memory is what all networks answered on one test set.
    """
    from itertools import groupby

    from amalgam.pipeline.store.tables.predictions import read_predictions
    from amalgam.tasks.scoring.scores import Scores, mean_scores, score_rows, scores_of

    rows, by_role = list[Result](), dict[str, list[Scores]]()
    for name, of_set in groupby(read_predictions(predictions), key=lambda answers: answers.test_set):
        answers = list(of_set)
        scores = scores_of({each.network: each.predictions for each in answers}, official.get(name, "accuracy"))
        by_role.setdefault(answers[0].role, []).append(scores)
        if name != VALIDATION:  # held-out images are the only ones of their role, and go by it alone
            rows += score_rows(scores, networks, answers[0].role, name)
    for role, sets in by_role.items():
        rows += score_rows(mean_scores(sets), networks, role, None)
    return rows


def _drift(meters: Mapping[str, DriftMeter], network: Network, roles: Mapping[str, str]) -> list[Result]:
    """How far features moved: of held-out images as `drift/cka`, of a test set as `set/NAME/drift_cka`."""
    found = {name: meter.result() for name, meter in meters.items() if meter.num_examples}
    own = [Result(network, DRIFT, None, name, number) for name, number in found.pop(VALIDATION, {}).items()]
    return own + [
        Result(network, roles[test_set], test_set, f"{DRIFT}_{name}", number)
        for test_set, numbers in found.items()
        for name, number in numbers.items()
    ]


def check_content_of_test_sets(config: PathConfig, data_root: Path | None) -> None:
    """Raise ValueError unless every test set can be read: hours of training come before it is."""
    from amalgam.tasks.data.opening import check_content

    for source in (test_set.source for test_set in config.test_sets):
        check_content(data_of(source), getattr(source, "split", "test"), data_root)


PATH = Kind("path", evaluate_path, PathConfig, version=4, slow_check=check_content_of_test_sets)
