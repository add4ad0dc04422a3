"""Made-up paths between networks, of the size that a pilot of the robustness experiment measured, as real results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.robustness.config import RobustnessReportConfig
from amalgam.pipeline.steps.clip.path import path_results
from amalgam.pipeline.store.artifact import Point, Record
from amalgam.pipeline.store.measures import recorded
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, Answers, write_predictions
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.view import run_metrics
from amalgam.tasks.clip.testing.evaluate import path_name
from amalgam.tasks.scoring.metrics import Predictions
from amalgam.tasks.scoring.results import Network

ALPHAS = (0.0, 0.3, 0.5, 0.7, 1.0)
NUM_CLASSES = 10
TEST_SETS = {"plain": "id", "negative": "seen", "outline": "seen", "rotated": "unseen", "other": "forgetting"}
ZERO_SHOT = {"id": 0.505, "seen": 0.384, "unseen": 0.305, "natural": 0.34, "forgetting": 0.45}
ENDS = {
    "ft": {None: (0.580, 0.276, 0.224)},
    "lp": {None: (0.541, 0.345, 0.281)},
    "l2": {100.0: (0.556, 0.316, 0.240), 300.0: (0.550, 0.346, 0.263), 1000.0: (0.537, 0.376, 0.287)},
    "sae-mask": {70.0: (0.548, 0.314, 0.237), 200.0: (0.528, 0.345, 0.257), 700.0: (0.514, 0.377, 0.281)},
}
"""In-distribution, seen and unseen accuracy by method and strength, without WiSE."""


def path(config: Mapping[str, Any], inputs: Mapping[str, Any], work: Workspace) -> dict[str, float]:
    """Pretend to test a path: predictions as real ones, and the results that a real path step writes."""
    write_predictions(work.out / PREDICTIONS, _answers(config))
    network = Network(kind="classifier", method=config["method"], settings=config["settings"], seed=config["seed"])
    networks = {path_name(alpha): network.with_setting("alpha", alpha) for alpha in config["alphas"]}
    return recorded(path_results(work.out / PREDICTIONS, {}, networks), work.out, by=("alpha",))


def robustness(
    ends: Mapping[str, Mapping[float | None, tuple[float, ...]]] = ENDS,
    seeds: int = 3,
    num_images: int = 150,
    tolerance: float = 0.01,
    test_sets: Mapping[str, str] = TEST_SETS,
    compare: tuple[str, ...] = (),
    **changed: Any,
) -> Step:
    """The report over made-up paths; `changed` goes into the config of every path."""
    every = [("zero-shot", None, (0.0,)), *((m, s, ALPHAS) for m, strengths in ends.items() for s in strengths)]
    paths = tuple(
        Step(
            "path",
            "tests.pipeline.reports.paths:path",
            {
                "method": method,
                "settings": {} if strength is None else {"strength": strength},
                "seed": seed,
                "alphas": alphas,
                "num_images": num_images,
                "test_sets": dict(test_sets),
                "end": ends[method][strength] if method in ends else (),
                **changed,
            },
        )
        for method, strength, alphas in every
        for seed in range(seeds)
    )
    config = RobustnessReportConfig(
        title="Two digits <b>in nine styles</b>",
        settings={"images": f"{num_images} a kind"},
        tolerance=tolerance,
        about={"ft": "plain fine-tuning of everything", "sae-mask": "SAE-FT: no new latents, and the residual stays"},
        compare=compare,
    )
    return Step("robustness", "amalgam.pipeline.steps.clip.report:write_report", config, {"paths": paths})


def charted(record: Record, curves: Sequence[Point]) -> dict[str, list[tuple[int, float]]]:
    """What MLflow shows on the page of a run with this target: steps and values by metric."""
    begun = RunRecord(experiment="shown", started=record.started, targets=(record.fingerprint,))
    metrics = run_metrics(begun.ended(), {record.fingerprint: record}, {record.fingerprint: curves})
    found: dict[str, list[tuple[int, float]]] = {}
    for metric in metrics:
        found.setdefault(metric.key, []).append((metric.step, metric.value))
    return found


def _answers(config: Mapping[str, Any]) -> Iterator[Answers]:
    """What the networks of one path say: the nearer two are, the more alike they answer."""
    sets = {"validation": "validation"} | config["test_sets"]
    for place, (name, role) in enumerate(sets.items()):
        salt = config.get("test_salt", 0) if role != "validation" else 0
        images = torch.Generator().manual_seed(1000 * salt + place)
        labels = torch.randint(NUM_CLASSES, (config["num_images"],), generator=images)
        hardness = torch.rand(config["num_images"], generator=images)
        noise = torch.Generator().manual_seed(10_000 * config["seed"] + 100 * salt + place)
        hardness = (hardness + 0.1 * torch.randn(config["num_images"], generator=noise)).clamp(0, 1)
        for alpha in config["alphas"]:
            wrong = hardness > _accuracy(config, "id" if role == "validation" else role, alpha)
            said = torch.nn.functional.one_hot((labels + wrong) % NUM_CLASSES, NUM_CLASSES) * 3.0
            yield Answers(name, role, path_name(alpha), Predictions.of(said, labels, torch.arange(len(labels))))


def _accuracy(config: Mapping[str, Any], role: str, alpha: float) -> float:
    """Between the ends, and above the line between them: that is what makes WiSE worth its while."""
    before = ZERO_SHOT[role]
    id_, seen, unseen = config["end"] or (0.0, 0.0, 0.0)
    after = {"id": id_, "seen": seen, "unseen": unseen, "natural": unseen + 0.04, "forgetting": seen}[role]
    return (1 - alpha) * before + alpha * after + 0.14 * alpha * (1 - alpha)
