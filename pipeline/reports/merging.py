"""The report of merging: the comparison report of every method, task and chosen setting, and pairs seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from amalgam.pipeline.reports import comparison
from amalgam.pipeline.reports.builder import Report
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.reports.tables import DEVIATION, Row
from amalgam.pipeline.store.artifact import Point, Record
from amalgam.tasks.scoring.results import CONFLICT, Network, Result, results_frame
from amalgam.tasks.scoring.seeds import OverSeeds, over_seeds

STEM, VALIDATION = "merging", "validation/accuracy"
LEGEND = (
    "Settings are chosen by mean accuracy on validation images, each method from the same grid of scales; accuracies "
    "are on test images. worst: the lowest accuracy of a task. edge: share of seeds in which the largest scale was "
    "best. eta: what the flat mean loses to the curved one by the tasks' own curvatures."
)
CHECKPOINT_RIVALS = ("uniform", "last", "best", "EMA")
PAIRS = (
    ("EpiMer", ("TSVM", "RegMean", "IsoC", "TaskArithmetic", "EpiMer raw")),
    ("Fisher exact", ("Fisher batch", "Average")),
    ("full MWA loss", tuple(f"full {rival}" for rival in CHECKPOINT_RIVALS)),
    ("LoRA MWA loss, product", ("LoRA uniform, product", "LoRA last", "LoRA best", "LoRA EMA, product")),
    ("LoRA uniform, product", ("LoRA uniform, factors",)),
)
"""What the sentences compare."""
MEASURES = (
    Measure(name="accuracy", heading="mean %", unit="percent"),
    Measure(name="worst_accuracy", heading="worst %", unit="percent", is_headline=True),
    Measure(name="validation_accuracy", heading="validation %", unit="percent", deviation=False),
    *(
        Measure(name=name, heading=heading, deviation=False)
        for name, heading in (
            ("scale", "scale"),
            ("temperature", "temperature"),
            ("penalty", "penalty"),
            ("decay", "decay"),
            ("at_edge", "edge"),
            ("eta", "eta"),
        )
    ),
)

CONFLICT_MEASURES = (
    Measure(name="sign_agreement", heading="same signs %", unit="percent"),
    Measure(name="cosine", heading="cosine"),
    Measure(name="overlap", heading="overlap"),
    Measure(name="eta", heading="eta"),
)
CONFLICT_LEGEND = (
    "Means over pairs of tasks. same signs: of entries that both moved, those moved in one direction (chance: half)."
    " cosine: of task vectors. overlap: mean squared cosine of the angles between leading singular subspaces."
)


def merge_report(
    results: Sequence[Result], title: str, settings: Mapping[str, Any], provenance: Sequence[Record] = ()
) -> tuple[Report, dict[str, float]]:
    """The report of some results, and its headline: every row's mean and worst accuracy."""
    by_tensor = comparison.comparison_rows([one for one in results if one.role == CONFLICT], CONFLICT_MEASURES)
    results = [one for one in results if one.role != CONFLICT]
    tasks = dict.fromkeys(one.test_set for one in results if one.test_set)
    measures = [Measure(name="accuracy", heading=t, unit="percent", test_set=t, deviation=False) for t in tasks]
    sentences = [sentence for ours, others in PAIRS for sentence in verdicts(results, ours, others)]
    more = comparison.More(
        "conflicts", "Where the tasks disagree, by tensor", CONFLICT_LEGEND, by_tensor, CONFLICT_MEASURES
    )
    return comparison.comparison_report(
        results,
        title,
        settings,
        [*MEASURES, *measures],
        provenance,
        stem=STEM,
        legend=LEGEND,
        sentences=sentences,
        more=more if by_tensor else None,
    )


def swept(runs: Iterable[tuple[Network, Sequence[Point]]]) -> list[tuple[int, dict[str, float]]]:
    """Points `by_setting/METHOD`, with their steps, from the curves of merges: validation accuracy, mean over seeds."""
    found = dict[tuple[int, str], list[float]]()
    for network, points in runs:
        for point in [point for point in points if point.metric == VALIDATION]:
            found.setdefault((point.step, network.label), []).append(point.value)
    return [(step, {f"by_setting/{label}": fmean(values)}) for (step, label), values in found.items()]


def best_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Mean test accuracy, with its deviation, and that of the worst task, of the merge best on validation images."""
    chosen = [row for row in rows if row.get("validation_accuracy") is not None]
    best: Row = max(chosen, key=lambda row: row["validation_accuracy"], default={})
    found = {f"test/{name}": best.get(name) for name in ("accuracy", "accuracy" + DEVIATION, "worst_accuracy")}
    return {name: float(value) for name, value in found.items() if value is not None}


def terminal_table(folder: Path) -> Table:
    """The table of a written report without single tasks, for the terminal.

    Raises ValueError if the folder holds no report.
    """
    return comparison.terminal_table(folder, STEM)


def verdicts(results: Sequence[Result], ours: str, others: Sequence[str]) -> list[str]:
    """A sentence per pair: by how many points `ours` is better on average over seeds, and how much that varies."""
    wanted = ("test", None, "accuracy")
    frame = results_frame(one for one in results if (one.role, one.test_set, one.metric) == wanted)
    frame["label"] = [network.method for network in frame["network"]]
    values = frame.pivot(index="seed", columns="label", values="value")
    gaps = {
        other: over_seeds((100 * (values[ours] - values[other])).dropna().tolist())
        for other in others
        if ours in values and other in values
    }
    return [f"{ours} {_verb(gap)} {other} by {_points(gap)}." for other, gap in gaps.items()]


def _verb(gap: OverSeeds) -> str:
    """Better or worse only where the interval of the mean over seeds leaves out 0."""
    if not gap.is_sure:
        return "is not clearly apart from"
    return "beats" if gap.mean > 0 else "loses to"


def _points(gap: OverSeeds) -> str:
    width = "" if gap.std is None else f" ± {gap.std:.1f}"
    seeds = f"{gap.num_seeds} {'seeds' if gap.num_seeds > 1 else 'seed'}"
    return f"{gap.mean:+.1f}{width} points of mean test accuracy over {seeds}"
