"""What a robustness report tests: who is ahead of whom."""

from collections.abc import Sequence
from dataclasses import dataclass

from amalgam.pipeline.reports.robustness.config import PLAIN
from amalgam.pipeline.reports.robustness.pooling import Key, Pooled, key_of
from amalgam.pipeline.reports.robustness.table import VALIDATION, main_rows, row_of, strength_rows
from amalgam.pipeline.reports.tables import Row
from amalgam.tasks.scoring.comparing import Difference
from amalgam.tasks.scoring.selection import matched_strength

ROLE_NAMES = {
    "id": "in distribution",
    "seen": "seen shifts",
    "unseen": "unseen shifts",
    "natural": "natural shifts",
    "forgetting": "other classes",
    "overall": "overall",
}
Pair = tuple[str, ...]
"""Two methods that a user wants compared; empty compares none besides those that every report compares."""


@dataclass(frozen=True)
class Comparison:
    """One network against another, by role."""

    ours: str
    theirs: str
    by_role: dict[str, Difference]


@dataclass(frozen=True)
class Findings:
    """Everything a report says in words."""

    headlines: Sequence[str]
    recommendation: str
    comparisons: Sequence[Comparison]


def compared_networks(rows: Sequence[Row], pair: Pair) -> list[Key]:
    """Every network whose predictions the findings need."""
    peer = matched_peer(rows, pair)
    return list(dict.fromkeys(key_of(row) for row in [*main_rows(rows), *([peer] if peer else [])]))


def matched_peer(rows: Sequence[Row], pair: Pair) -> Row | None:
    """The second method of a pair at the strength whose validation accuracy is nearest to the first's as chosen.

    A method without strengths is taken as it is.
    """
    method = row_of(rows, pair[0]) if pair else None
    if method is None:
        return None
    peers = {row["strength"]: row for row in strength_rows(rows) if row["method"] == pair[1] and row["strength"]}
    if not peers:
        return row_of(rows, pair[1])
    return peers[matched_strength({strength: peers[strength][VALIDATION] for strength in peers}, method[VALIDATION])]


def matched_comparison(rows: Sequence[Row], pooled: Pooled, pair: Pair) -> Comparison | None:
    """The first method of a pair against the second at matched validation accuracy, both without WiSE."""
    method, peer = (row_of(rows, pair[0]) if pair else None), matched_peer(rows, pair)
    return None if method is None or peer is None else _comparison(pooled, method, peer)


def wise_comparisons(rows: Sequence[Row], pooled: Pooled) -> list[Comparison]:
    """Each fine-tuning method against plain fine-tuning, all with WiSE at the alphas chosen on validation."""
    plain = row_of(rows, PLAIN, "WiSE")
    others = [row for row in main_rows(rows) if row["form"] == "WiSE" and row["method"] != PLAIN]
    return [] if plain is None else [_comparison(pooled, row, plain) for row in others]


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
