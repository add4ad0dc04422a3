"""The headlines of a robustness report: sentences made from its numbers, and what a user should choose."""

from collections.abc import Sequence

from amalgam.pipeline.reports.files import MINUS, Row, percent, points
from amalgam.pipeline.reports.robustness.config import PLAIN, ZERO_SHOT
from amalgam.pipeline.reports.robustness.findings import (
    METHOD,
    PEER,
    ROLE_NAMES,
    matched_comparison,
    named,
    share_bought_back,
)
from amalgam.pipeline.reports.robustness.pooling import Difference, PooledAccuracies, network_of
from amalgam.pipeline.reports.robustness.table import (
    OVERALL,
    SHIFTS,
    home_measure,
    main_rows,
    reference_shift,
    roles_of,
    row_of,
)

NUM_NAMED = 3  # ways to fine-tune that one sentence names
MEASURE = "the mean of in-distribution and shifted accuracy"


def headlines(rows: Sequence[Row], pooled: PooledAccuracies) -> list[str]:
    """What plain fine-tuning does, what penalties and WiSE buy back, and how the method and its peer compare."""
    found = [_plain(rows), _penalties(rows), _beyond(rows), _wise(rows), _compared(rows, pooled)]
    return [sentence for sentence in found if sentence]


def recommendation(rows: Sequence[Row], pooled: PooledAccuracies) -> str:
    """What to choose: the best overall if it is surely ahead of plain fine-tuning with WiSE, else that."""
    tried = [row for row in main_rows(rows) if row.get(f"{OVERALL}/accuracy") is not None]
    simple = max((row for row in tried if row["variant"] == PLAIN), key=_overall, default=None)
    if simple is None:
        return ""
    best = max(tried, key=_overall)
    if network_of(best) == network_of(simple):
        return f"{named(simple)}: nothing tried is better on {MEASURE} ({percent(_overall(best))} %)."
    lead = pooled.difference(OVERALL, network_of(best), network_of(simple))
    ahead = f"by {lead} points on {MEASURE}, and in {lead.num_ahead} of {lead.num_seeds} seeds"
    if not lead.low > 0:
        return (
            f"{named(simple)}, the simplest remedy. The best of {len(tried)} rows, {named(best)}, is ahead of it "
            f"{ahead}: these test images cannot tell that from nothing."
        )
    if best["variant"] == ZERO_SHOT:
        return f"no fine-tuning at all. Zero-shot is ahead of {named(simple)} {ahead}."
    return (
        f"{named(best)}. It is ahead of the simplest remedy, {named(simple)}, {ahead}. As the best of {len(tried)} "
        "rows, found on these very test images, it may be a little flattered."
    )


def _overall(row: Row) -> float:
    return row[f"{OVERALL}/accuracy"]


def _plain(rows: Sequence[Row]) -> str:
    zero, plain = row_of(rows, ZERO_SHOT), row_of(rows, PLAIN)
    if zero is None or plain is None:
        return ""
    changes = [
        (name, zero[f"{role}/accuracy"], plain[f"{role}/accuracy"])
        for role, name in ROLE_NAMES.items() if role in roles_of(rows)
    ]  # fmt: skip
    won = [_change(*change) for change in changes if change[2] >= change[1]]
    lost = [_change(*change) for change in changes if change[2] < change[1]]
    parts = [f"{verb} {_listed(words)}" for verb, words in (("gains", won), ("loses", lost)) if words]
    return f"Against zero-shot, plain fine-tuning (ft) {', but '.join(parts)}."


def _change(name: str, before: float, after: float) -> str:
    preposition = "" if name.startswith("in ") else "on "
    return f"{100 * abs(after - before):.1f} points {preposition}{name} ({percent(before)} → {percent(after)} %)"


def _penalties(rows: Sequence[Row]) -> str:
    shares = {row["variant"]: found for row in main_rows(rows) if row["strength"] is not None and not row["form"]
              if (found := _bought_back(rows, row))}  # fmt: skip
    ranked = sorted(shares, key=lambda variant: -shares[variant][0])
    shown = [variant for place, variant in enumerate(ranked) if place < NUM_NAMED or variant in (METHOD, PEER)]
    if not shown:
        return ""
    words = [f"{variant} {_with_price(*shares[variant])}" for variant in shown]
    rest = f"; {len(ranked) - len(shown)} others buy back less" if len(ranked) > len(shown) else ""
    loss = f"the loss on {ROLE_NAMES[reference_shift(rows) or '']}"
    return f"Bought back of {loss}, at the strengths chosen on validation: {'; '.join(words)}{rest}."


def _beyond(rows: Sequence[Row]) -> str:
    beyond = list(dict.fromkeys(row["variant"] for row in rows if not row["within_tolerance"]))
    if not beyond:
        return ""
    return (
        f"Every strength tried of {_listed(beyond)} gives up more validation accuracy than allowed: the one that gives "
        "up least is shown."
    )


def _wise(rows: Sequence[Row]) -> str:
    plain = row_of(rows, PLAIN, "WiSE")
    found = plain and _bought_back(rows, plain)
    if not plain or not found:
        return ""
    return (
        f"WiSE, averaging plainly fine-tuned and zero-shot weights, buys back {_with_price(*found)} at alpha "
        f"{plain['alpha']:g}, without any penalty."
    )


def _with_price(share: float, price: float) -> str:
    return f"{100 * share:.0f} % (in distribution {points(price)})".replace("-", MINUS)


def _bought_back(rows: Sequence[Row], row: Row) -> tuple[float, float] | None:
    """Which share of plain fine-tuning's loss a row buys back, and what it changes in distribution."""
    zero, plain, shift = row_of(rows, ZERO_SHOT), row_of(rows, PLAIN), reference_shift(rows)
    if zero is None or plain is None or not shift:
        return None
    share = share_bought_back(*(each[f"{shift}/accuracy"] for each in (row, zero, plain)))
    home = home_measure(rows)
    return None if share is None else (share, row[home] - plain[home])


def _compared(rows: Sequence[Row], pooled: PooledAccuracies) -> str:
    found = matched_comparison(rows, pooled)
    if found is None:
        return ""
    words = [
        f"{found.by_role[role]} on {ROLE_NAMES[role]} ({_verdict(found.by_role[role])})"
        for role in SHIFTS
        if role in found.by_role
    ]
    return f"{METHOD} against {PEER} at matched in-distribution accuracy: {_listed(words)}."


def _verdict(difference: Difference) -> str:
    if not difference.is_sure:
        return "no difference these images can show"
    return f"{METHOD if difference.value > 0 else PEER} is better"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
