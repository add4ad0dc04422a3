"""What a robustness report tests: who is ahead of whom, and the acceptance criteria set down before the experiment."""

from collections.abc import Sequence
from dataclasses import dataclass

from amalgam.pipeline.reports.files import Row, points
from amalgam.pipeline.reports.robustness.config import PLAIN, ZERO_SHOT
from amalgam.pipeline.reports.robustness.pooling import Difference, Network, PooledAccuracies, network_of
from amalgam.pipeline.reports.robustness.table import (
    SHIFTS,
    VALIDATION,
    WisePath,
    main_rows,
    reference_shift,
    roles_of,
    row_of,
    strength_rows,
)
from amalgam.tasks.scoring.selection import matched_strength

ROLE_NAMES = {
    "id": "in distribution",
    "seen": "seen shifts",
    "unseen": "unseen shifts",
    "natural": "natural shifts",
    "forgetting": "other classes",
    "overall": "overall",
}
METHOD, PEER = "sae-mask", "l2"  # the two that the third criterion compares
LEAST_CHANGE, LEAST_SHARE = 0.03, 0.5
MET, NOT_MET, REPORTED, OPEN = "met", "not met", "reported", "cannot be judged"


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
    criteria: Sequence["Criterion"]


@dataclass(frozen=True)
class Criterion:
    """One acceptance criterion."""

    text: str
    verdict: str
    detail: str


def compared_networks(rows: Sequence[Row]) -> list[Network]:
    """Every network whose predictions the findings need."""
    peer = matched_peer(rows)
    return list(dict.fromkeys(network_of(row) for row in [*main_rows(rows), *([peer] if peer else [])]))


def matched_peer(rows: Sequence[Row]) -> Row | None:
    """The peer at the strength whose validation accuracy is nearest to that of the method as chosen, if any."""
    method = row_of(rows, METHOD)
    peers = {row["strength"]: row for row in strength_rows(rows) if row["variant"] == PEER and row["strength"]}
    if method is None or not peers:
        return None
    return peers[matched_strength({strength: peers[strength][VALIDATION] for strength in peers}, method[VALIDATION])]


def matched_comparison(rows: Sequence[Row], pooled: PooledAccuracies) -> Comparison | None:
    """The method against its peer at matched validation accuracy, both without WiSE."""
    method, peer = row_of(rows, METHOD), matched_peer(rows)
    return None if method is None or peer is None else _comparison(pooled, method, peer)


def wise_comparisons(rows: Sequence[Row], pooled: PooledAccuracies) -> list[Comparison]:
    """Each way to fine-tune against plain fine-tuning, all with WiSE at the alphas chosen on validation."""
    plain = row_of(rows, PLAIN, "WiSE")
    others = [row for row in main_rows(rows) if row["form"] == "WiSE" and row["variant"] != PLAIN]
    return [] if plain is None else [_comparison(pooled, row, plain) for row in others]


def criteria(rows: Sequence[Row], paths: Sequence[WisePath], pooled: PooledAccuracies) -> list[Criterion]:
    """The acceptance criteria that the numbers of a report can decide; other shifts stand in if none was seen."""
    shift = reference_shift(rows)
    return [_headroom(rows, shift), _bought_back(rows, paths, shift), _compared(rows, pooled)]


def share_bought_back(accuracy: float, zero_shot: float, plain: float) -> float | None:
    """Which share of what plain fine-tuning loses against zero-shot an accuracy has back; None if it loses nothing."""
    return (accuracy - plain) / (zero_shot - plain) if zero_shot > plain else None


def named(row: Row) -> str:
    """A network in words, with how it was chosen."""
    name: str = "plain fine-tuning" if row["variant"] == PLAIN else row["variant"]
    settings = [] if row["strength"] is None else [f"strength {row['strength']:g}"]
    settings += [f"alpha {row['alpha']:g}"] if row["form"] else []
    return name + (" + WiSE" if row["form"] else "") + (f" ({', '.join(settings)})" if settings else "")


def _comparison(pooled: PooledAccuracies, ours: Row, theirs: Row) -> Comparison:
    a, b = network_of(ours), network_of(theirs)
    return Comparison(named(ours), named(theirs | {"form": ours["form"]}), {
        role: pooled.difference(role, a, b) for role in ROLE_NAMES if role in pooled.by_role
    })  # fmt: skip


def _headroom(rows: Sequence[Row], shift: str | None) -> Criterion:
    text = f"Plain fine-tuning gains ≥ {100 * LEAST_CHANGE:.0f} points in distribution and loses as many on shifts"
    zero, plain = row_of(rows, ZERO_SHOT), row_of(rows, PLAIN)
    if zero is None or plain is None or shift is None or "id" not in roles_of(rows):
        return Criterion(text, OPEN, "needs plain fine-tuning, zero-shot, and test images in distribution and shifted")
    gain, change = (plain[f"{role}/accuracy"] - zero[f"{role}/accuracy"] for role in ("id", shift))
    is_met = gain >= LEAST_CHANGE and change <= -LEAST_CHANGE
    detail = f"{points(gain)} in distribution, {points(change)} on {ROLE_NAMES[shift]}"
    return Criterion(text, MET if is_met else NOT_MET, detail)


def _bought_back(rows: Sequence[Row], paths: Sequence[WisePath], shift: str | None) -> Criterion:
    text = f"{METHOD} at its chosen strength buys back ≥ {100 * LEAST_SHARE:.0f} % of that loss in every seed"
    method = row_of(rows, METHOD)
    if method is None or shift is None or row_of(rows, PLAIN) is None:
        return Criterion(text, OPEN, f"needs {METHOD}, plain fine-tuning and shifted images")
    settings = ((METHOD, method["strength"], 1.0), (ZERO_SHOT, None, 0.0), (PLAIN, None, 1.0))
    accuracy = {
        (variant, strength, alpha, path.seed): path.by_alpha[alpha].scores[f"{shift}/accuracy"]
        for variant, strength, alpha in settings for path in paths if path.setting == (variant, strength)
    }  # fmt: skip
    seeds = sorted({path.seed for path in paths})
    shares = [share_bought_back(*(accuracy[*setting, seed] for setting in settings)) for seed in seeds]
    if None in shares:
        return Criterion(
            text, OPEN, f"plain fine-tuning loses nothing on {ROLE_NAMES[shift]} in seed {seeds[shares.index(None)]}"
        )
    known = [share for share in shares if share is not None]
    detail = f"{', '.join(f'{100 * share:.0f} %' for share in known)} at strength {method['strength']:g}"
    if not method["within_tolerance"]:
        return Criterion(
            text, NOT_MET, f"{detail}, but every strength tried gives up more validation accuracy than allowed"
        )
    return Criterion(text, MET if min(known) >= LEAST_SHARE else NOT_MET, detail)


def _compared(rows: Sequence[Row], pooled: PooledAccuracies) -> Criterion:
    text = f"{METHOD} minus {PEER} at matched in-distribution accuracy is reported with its interval, whatever the sign"
    found = matched_comparison(rows, pooled)
    if found is None:
        return Criterion(text, OPEN, f"needs {METHOD} and {PEER}")
    shifts = [f"{ROLE_NAMES[role]} {found.by_role[role]}" for role in ("id", *SHIFTS) if role in found.by_role]
    return Criterion(text, REPORTED, f"{', '.join(shifts)} points against {found.theirs}")
