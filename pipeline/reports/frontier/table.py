"""The frontier table: one row per network or ensemble, with means and deviations over seeds.

Every picture, page and listing of a report is drawn from these rows, which are also its CSV and Parquet files.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from amalgam.pipeline.reports.tables import DEVIATION, HIGH, LOW, Row, spread
from amalgam.tasks.scoring.results import ALPHA, COST, Network, Result, results_frame

KINDS = ("member", "ensemble", "rival", "fused")
RELATIVE = "relative_"
OF_CLASS = "accuracy_class_"


def frontier_table(results: Iterable[Result]) -> list[Row]:
    """One row per network: its mean scores and costs over seeds, their deviations, its costs relative to a member."""
    frame = results_frame(results)
    if frame.empty:
        raise ValueError("a report needs at least one result, got none")
    numbers: dict[Network, Row] = {}
    for (network, metric), values in frame.groupby(["network", "metric"], sort=False)["value"]:
        numbers.setdefault(network, {}).update(spread(metric, values.tolist()))
    seeds = frame.groupby("network", sort=False)["seed"].nunique().to_dict()
    with_weights = len({network.weights for network in numbers if network.weights}) > 1
    rows = [
        identity(network, with_weights=with_weights) | {"seeds": seeds[network]} | numbers[network]
        for network in sorted(numbers, key=_order)
    ]
    costs = list(dict.fromkeys(frame.loc[frame["role"] == COST, "metric"]))
    return [row | _relative(row, rows, costs) for row in rows]


def identity(network: Network, *, with_weights: bool) -> Row:
    """What a row says of its network; `treatment` is what was done to it besides, `series` all but its alpha."""
    weights = f"weights {'/'.join(f'{weight:.3g}' for weight in network.weights)}" if network.weights else ""
    kept = tuple(pair for pair in network.settings if pair[0] != ALPHA)
    untreated = network.model_copy(update={"recalibrated": False, "refitted": False, "finetuned": False})
    marks = [*["recalibrated"] * network.recalibrated, *["refit"] * network.refitted]
    marks += ["fine-tuned"] * network.finetuned
    marks += [weights] * (with_weights and bool(weights))
    return {
        "label": ", ".join([untreated.label, *marks]),
        "kind": network.kind,
        "method": network.method,
        "series": untreated.model_copy(update={"settings": kept, "member": None}).label,
        "treatment": ", ".join(marks),
        "alpha": network.number(ALPHA),
        "weights": network.weights,
        "recalibrated": network.recalibrated,
        "refitted": network.refitted,
        "finetuned": network.finetuned,
        "member": network.member,
    }


def front(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Fused networks and ensembles more accurate than all of less cost, by nonzero FLOPs in percent of one member's."""
    priced = [row for row in rows if row["kind"] in ("fused", "ensemble") and row.get(RELATIVE + "nonzero_flops")]
    found = list[tuple[int, Row]]()
    for row in sorted(priced, key=lambda row: (row[RELATIVE + "nonzero_flops"], -row["accuracy"])):
        if not found or row["accuracy"] > found[-1][1]["accuracy"]:
            found.append((round(100 * row[RELATIVE + "nonzero_flops"]), row))
    return found


def best_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Scores of the most accurate fused network, their deviations over seeds, and its costs as multiples of a member's.

    Named as any tested network's are; empty without a fused network.
    """
    fused = [row for row in rows if row["kind"] == "fused"]
    best = max(fused, key=lambda row: row["accuracy"], default={})
    scores = [name for score in ("accuracy", "nll", "calibration_error") for name in (score, score + DEVIATION)]
    found = {f"test/{name}": best.get(name) for name in scores}
    costs = (RELATIVE + "nonzero_flops", RELATIVE + "nonzero_parameters")
    found |= {f"cost/{name}": best.get(name) for name in costs}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def class_measures(rows: Sequence[Row]) -> dict[str, str]:
    """The measures of single classes, in order of class, with the name of each class."""
    ends = (DEVIATION, LOW, HIGH)
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(OF_CLASS) and not name.endswith(ends))
    return {name: name.removeprefix(OF_CLASS) for name in names}


def _order(network: Network) -> tuple[Any, ...]:
    """Members first, then ensembles, then fused networks, those with an alpha last and from the smallest up."""
    alpha = network.number(ALPHA)
    one = (network.method, str([pair for pair in network.settings if pair[0] != ALPHA]))
    treatment = (network.weights, network.finetuned, network.refitted, network.recalibrated)
    return (KINDS.index(network.kind), alpha is not None, *one, *treatment, alpha or 0.0, network.member or 0)


def _relative(row: Row, rows: Sequence[Row], costs: Sequence[str]) -> Row:
    """Costs as multiples of the mean member's; empty without members."""
    members = [other for other in rows if other["kind"] == "member"]
    relative: Row = {}
    for cost in costs:
        of_members = [member[cost] for member in members if member.get(cost)]
        if of_members and row.get(cost) is not None:
            relative[RELATIVE + cost] = row[cost] / statistics.fmean(of_members)
    return relative
