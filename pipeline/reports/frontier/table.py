"""The frontier table: one row per network or ensemble, mean and standard deviation over seeds.

Every picture, page and listing of a report is drawn from these rows, which are also its CSV and Parquet files.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from amalgam.pipeline.reports.files import DEVIATION, Row, mean_and_deviation

ROLES = ("member", "logit ensemble", "probability ensemble", "naive", "aligned", "partial fusion")
MEASURES = (
    "accuracy", "nll", "calibration_error", "parameters", "nonzero_parameters", "flops", "nonzero_flops", "latency_ms",
)  # fmt: skip
COSTS = ("parameters", "nonzero_parameters", "flops", "nonzero_flops")
RELATIVE = "relative_"


class Network(BaseModel):
    """Which network or ensemble a result belongs to: everything but the seed."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    role: str
    """One of `ROLES`, or a name of your own."""
    method: str = ""
    """How it was fused, as its method prints itself."""
    alpha: float | None = None
    weights: tuple[float, ...] = ()
    """Of the members, in an ensemble or a fused network."""
    recalibrated: bool = False
    finetuned: bool = False
    member: int | None = None
    """Which member, where it is one."""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """The network of one result. Raises ValueError if its role is missing."""
        if "role" not in result:
            raise ValueError(f"a result needs a role, such as {ROLES[0]!r}, got {sorted(result)}")
        return cls.model_validate(dict(result))

    def label(self, *, with_weights: bool) -> str:
        """Its name in tables and legends; the weights only where a table has several."""
        name = f"{self.role} {self.member}" if self.member is not None else self.role
        if self.role == "partial fusion":
            name = f"alpha {self.alpha:g}"
        marks = ["recalibrated"] * self.recalibrated + ["fine-tuned"] * self.finetuned
        if with_weights and self.weights:
            marks.append("weights " + "/".join(f"{weight:.3g}" for weight in self.weights))
        return ", ".join([name, *marks])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.role == "partial fusion" and self.alpha is None:
            raise ValueError("a result of partial fusion needs its alpha")
        return self

    @property
    def order(self) -> tuple[Any, ...]:
        """Members first, then ensembles, then fused networks from the smallest up."""
        place = ROLES.index(self.role) if self.role in ROLES else len(ROLES)
        marks = (self.weights, self.finetuned, self.recalibrated)
        return (place, *marks, -1 if self.alpha is None else self.alpha, self.member or 0, self.method)


def frontier_table(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per network: its mean scores and costs over seeds, their deviations, its costs relative to a member.

    A result has the fields of `Network`, a `seed`, and scores and costs such as `MEASURES` and `accuracy_class_3`.
    """
    by_network: dict[Network, list[Mapping[str, Any]]] = {}
    for result in results:
        by_network.setdefault(Network.of(result), []).append(result)
    if not by_network:
        raise ValueError("a report needs at least one result, got none")
    measures = _measures(by_network.values())
    with_weights = len({network.weights for network in by_network if network.weights}) > 1
    rows = [
        network.model_dump()
        | {"label": network.label(with_weights=with_weights), "seeds": len(by_network[network])}
        | _summary(by_network[network], measures)
        for network in sorted(by_network, key=lambda network: network.order)
    ]
    return [row | _relative(row, rows) for row in rows]


def class_measures(rows: Sequence[Row]) -> list[str]:
    """The measures of single classes, in order of class."""
    prefix = "accuracy_class_"
    names = {name for row in rows for name in row if name.startswith(prefix) and not name.endswith(DEVIATION)}
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def _measures(groups: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The known measures, then those of classes and any others, where a result has them."""
    given = dict.fromkeys(name for group in groups for result in group for name in result)
    others = [name for name in given if name not in MEASURES and name not in Network.model_fields and name != "seed"]
    return [name for name in MEASURES if name in given] + others


def _summary(results: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> Row:
    summary: Row = {}
    for name in measures:
        values = [float(result[name]) for result in results if result.get(name) is not None]
        summary |= mean_and_deviation(name, values)
    return summary


def _relative(row: Row, rows: Sequence[Row]) -> Row:
    """Costs as multiples of the mean member's; empty without members."""
    members = [other for other in rows if other["role"] == "member"]
    relative: Row = {}
    for cost in COSTS:
        of_members = [member[cost] for member in members if member.get(cost)]
        if of_members and row.get(cost) is not None:
            relative[RELATIVE + cost] = row[cost] / statistics.fmean(of_members)
    return relative
