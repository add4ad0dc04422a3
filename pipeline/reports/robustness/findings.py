"""What a robustness report tests: who is ahead of whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from amalgam.pipeline.reports.robustness.config import PLAIN
from amalgam.pipeline.reports.robustness.pooling import Key, Pooled, interval_text, key_of
from amalgam.pipeline.reports.robustness.table import formed_rows, row_of
from amalgam.pipeline.reports.tables import Row, percent, points
from amalgam.tasks.clip.testing.test_sets import VALIDATION as VALIDATION_ROLE
from amalgam.tasks.scoring.comparing import HOME, Difference
from amalgam.tasks.scoring.frontier import Lines
from amalgam.tasks.scoring.seeds import OverSeeds

ROLE_NAMES = {
    "id": "in distribution",
    "seen": "seen shifts",
    "unseen": "unseen shifts",
    "natural": "natural shifts",
    "forgetting": "other classes",
    "overall": "overall",
}
GRID_FACTOR = 10**0.5  # by which a grid is to be extended
Cell = tuple[str, bool, str]
Pair = tuple[str, ...]
"""Two methods that a user wants compared; empty compares none besides those that every report compares."""


@dataclass(frozen=True)
class Comparison:
    """One network against another, by role."""

    ours: str
    theirs: str
    by_role: dict[str, Difference]
    mean_gaps: dict[str, Difference] = field(default_factory=dict)
    """Of two frontiers: the area between them over its width, by role."""


@dataclass(frozen=True)
class Findings:
    """Everything a report says in words."""

    headlines: Sequence[str]
    recommendation: str
    comparisons: Sequence[Comparison]


def compared_networks(rows: Sequence[Row], pair: Pair) -> list[Key]:
    """Every network whose predictions the findings need."""
    lines = [row for method in pair for row in line_of(rows, method)]
    return list(dict.fromkeys(key_of(row) for row in [*formed_rows(rows), *lines]))


def line_of(rows: Sequence[Row], method: str) -> list[Row]:
    """The networks of a method in order of strength, plain fine-tuning first, all without WiSE."""
    return sorted(
        (row for row in rows if row["method"] == method and row["alpha"] == 1), key=lambda row: row["strength"] or 0
    )


def matched_lines(rows: Sequence[Row], pooled: Pooled, pair: Pair) -> Lines[Key] | None:
    """Both methods of a pair, to be compared at the in-distribution accuracy of the first as it was chosen."""
    method = row_of(rows, pair[0]) if pair else None
    if method is None:
        return None
    ours, theirs = ([key_of(row) for row in line_of(rows, name)] for name in pair)
    home = HOME if HOME in pooled.by_role else VALIDATION_ROLE
    return Lines(pooled, ours, theirs, key_of(method), home) if theirs else None


def matched_comparison(rows: Sequence[Row], pooled: Pooled, pair: Pair) -> Comparison | None:
    """The first method of a pair against the second at equal in-distribution accuracy, both without WiSE."""
    lines = matched_lines(rows, pooled, pair)
    if lines is None:
        return None
    roles = [role for role in ROLE_NAMES if role in pooled.by_role and role != HOME]
    gaps = {role: gap for role in roles if (gap := lines.mean_gap(role)) is not None}
    equal = f"at {percent(lines.at)} % in distribution"
    by_role = {role: lines.difference(role) for role in roles}
    return Comparison(f"{pair[0]}, {equal}", f"{pair[1]}, interpolated there", by_role, gaps)


def wise_comparisons(rows: Sequence[Row], pooled: Pooled) -> list[Comparison]:
    """Each fine-tuning method against plain fine-tuning, all with WiSE at the alphas chosen on validation."""
    plain = row_of(rows, PLAIN, "WiSE")
    others = [row for row in formed_rows(rows) if row["form"] == "WiSE" and row["method"] != PLAIN]
    return [] if plain is None else [_comparison(pooled, row, plain) for row in others]


def compared_cells(one: Comparison, roles: Sequence[str]) -> list[tuple[str, str, list[Cell]]]:
    """Both names, and for each role the difference, whether it is sure, and what the seeds say of it."""
    areas = [("between the frontiers, on average", "", one.mean_gaps)] if one.mean_gaps else []
    return [
        (ours, theirs, [_difference(by_role.get(role)) for role in roles])
        for ours, theirs, by_role in [(one.ours, one.theirs, one.by_role), *areas]
    ]


def _difference(found: Difference | None) -> Cell:
    if found is None:
        return "", False, ""
    return interval_text(found), found.is_sure, _over_seeds(found.num_ahead, found.seeds)


def _over_seeds(num_ahead: int, seeds: OverSeeds) -> str:
    ahead = f"{num_ahead}/{seeds.num_seeds}"
    if seeds.low is None or seeds.high is None:
        return ahead
    return f"{ahead}; t: [{points(seeds.low)}, {points(seeds.high)}]"


def grid_ends(rows: Sequence[Row]) -> list[str]:
    """Warnings of choices at the end of what was tried, where another might be better."""
    found, shown = list[str](), formed_rows(rows)
    for row in (row for row in shown if row["form"] == "" and row["strength"]):
        tried = sorted(one["strength"] for one in line_of(rows, row["method"]) if one["strength"])
        end = {tried[-1]: "largest", tried[0]: "smallest"}.get(row["strength"])
        if end is not None:
            found.append(f"strength {row['strength']:g} of {row['method']} is the {end} tried")
    if found:
        found[-1] += f" (extend --strengths by a factor of {GRID_FACTOR:.3g})"
    for alpha in (0, 1):
        methods = [row["method"] for row in shown if row["form"] == "WiSE" and row["alpha"] == alpha]
        found += [f"alpha {alpha} was chosen for WiSE on {', '.join(methods)}"] * bool(methods)
    return found


def named(row: Row) -> str:
    """A network in words, with how it was chosen."""
    name: str = "plain fine-tuning" if row["method"] == PLAIN else row["method"]
    settings = [] if row["strength"] is None else [f"strength {row['strength']:g}"]
    settings += [f"alpha {row['alpha']:g}"] if row["form"] else []
    return name + (" + WiSE" if row["form"] else "") + (f" ({', '.join(settings)})" if settings else "")


def _comparison(pooled: Pooled, ours: Row, theirs: Row) -> Comparison:
    a, b = key_of(ours), key_of(theirs)
    by_role = {role: pooled.difference(role, a, b) for role in ROLE_NAMES if role in pooled.by_role}
    return Comparison(named(ours), named(theirs | {"form": ours["form"]}), by_role)
