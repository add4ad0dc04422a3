"""The headlines of a robustness report: sentences made from its numbers, and what a user should choose."""

from collections.abc import Mapping, Sequence

from amalgam.pipeline.reports.robustness.config import DRIFT, PLAIN, ZERO_SHOT
from amalgam.pipeline.reports.robustness.findings import (
    ROLE_NAMES,
    Pair,
    grid_ends,
    matched_comparison,
    matched_lines,
    named,
)
from amalgam.pipeline.reports.robustness.pooling import Pooled, interval_text, key_of
from amalgam.pipeline.reports.robustness.table import (
    FORMS,
    home_measure,
    main_rows,
    reference_shift,
    roles_of,
    row_of,
)
from amalgam.pipeline.reports.tables import MINUS, Row, percent, points
from amalgam.tasks.clip.finetuning.regulariser import strength_at_width
from amalgam.tasks.scoring.comparing import OVERALL, SHIFTS, Difference
from amalgam.tasks.scoring.results import STRENGTH, Network
from amalgam.tasks.scoring.selection import recovered_fraction

OTHER_WIDTH = 512  # of ViT-B: what strengths are converted to
NUM_NAMED = 3  # fine-tuning methods that one sentence names
ONE_SEED = "the interval of one seed leaves out the chance of training"
MEASURE = "the mean of in-distribution and shifted accuracy"


def headlines(rows: Sequence[Row], pooled: Pooled, pair: Pair = ()) -> list[str]:
    """What plain fine-tuning does, what penalties and WiSE recover, and how the two methods of a pair compare."""
    found = [_plain(rows), _penalties(rows, pair), _beyond(rows), _wise(rows), _compared(rows, pooled, pair)]
    ends = grid_ends(rows)
    return [
        sentence for sentence in [*found, f"At the end of what was tried: {'; '.join(ends)}." * bool(ends)] if sentence
    ]


def recommendation(rows: Sequence[Row], pooled: Pooled) -> str:
    """What to choose: the best overall if it is surely ahead of plain fine-tuning with WiSE, else that."""
    tried = [row for row in main_rows(rows) if row.get(f"{OVERALL}/accuracy") is not None]
    simple = max((row for row in tried if row["method"] == PLAIN), key=_overall, default=None)
    if simple is None:
        return ""
    best = max(tried, key=_overall)
    if key_of(best) == key_of(simple):
        return f"{named(simple)}: nothing tried is better on {MEASURE} ({percent(_overall(best))} %)."
    lead = pooled.difference(OVERALL, key_of(best), key_of(simple))
    ahead = f"by {interval_text(lead)} points on {MEASURE}, and in {lead.num_ahead} of {lead.seeds.num_seeds} seeds"
    if lead.seeds.num_seeds < 2:
        return f"{named(simple)}, the simplest method: {ONE_SEED}."
    if not lead.low > 0:
        return (
            f"{named(simple)}, the simplest method. The best of {len(tried)} rows, {named(best)}, is ahead of it "
            f"{ahead}, which is not significant on these test images."
        )
    if best["method"] == ZERO_SHOT:
        return f"no fine-tuning at all. Zero-shot is ahead of {named(simple)} {ahead}."
    return (
        f"{named(best)}. It is ahead of the simplest method, {named(simple)}, {ahead}. As the best of {len(tried)} "
        "rows, chosen on these test images, its lead is biased upwards."
    )


def strength_forms(rows: Sequence[Row], form: str) -> str:
    """What the chosen strengths are in the other form, at another width, and on features that are not scaled."""
    chosen = max((row["strength"] for row in main_rows(rows) if row["strength"]), default=None)
    row = next((row for row in rows if row.get(f"{DRIFT}/width")), None)
    if chosen is None or row is None:
        return ""
    width, length = round(row[f"{DRIFT}/width"]), row[f"{DRIFT}/length"]
    mean = chosen if form == "mean" else chosen * width
    same = f"{mean / width:.4g} in sum form and, as means, {mean:g} at width {width} and "
    same += f"{strength_at_width(mean, width, OTHER_WIDTH):g} at width {OTHER_WIDTH}"
    return (
        f"Strengths multiply {form}s over features (--strength-form): {chosen:g} here is {same}; nuclear norms "
        f"and l2-sp have one form. Features have mean norm {length:.3g}: on features that are not scaled to norm 1 "
        f"(--recipe paper) the same penalty has 1/{length:.3g} of the strength on new latents, 1/{length**2:.3g} "
        "where it squares."
    )


def _overall(row: Row) -> float:
    return row[f"{OVERALL}/accuracy"]


def _plain(rows: Sequence[Row]) -> str:
    zero, plain = row_of(rows, ZERO_SHOT), row_of(rows, PLAIN)
    if zero is None or plain is None:
        return ""
    changes = [
        (name, zero[f"{role}/accuracy"], plain[f"{role}/accuracy"])
        for role, name in ROLE_NAMES.items()
        if role in roles_of(rows)
    ]
    won = [_change(*change) for change in changes if change[2] >= change[1]]
    lost = [_change(*change) for change in changes if change[2] < change[1]]
    parts = [f"{verb} {_listed(words)}" for verb, words in (("gains", won), ("loses", lost)) if words]
    return f"Against zero-shot, plain fine-tuning (ft) {', but '.join(parts)}."


def _change(name: str, before: float, after: float) -> str:
    preposition = "" if name.startswith("in ") else "on "
    return f"{100 * abs(after - before):.1f} points {preposition}{name} ({percent(before)} → {percent(after)} %)"


def _penalties(rows: Sequence[Row], pair: Pair) -> str:
    shares = {
        row["method"]: found
        for row in main_rows(rows)
        if row["strength"] is not None and not row["form"]
        if (found := _recovered(rows, row))
    }
    ranked = sorted(shares, key=lambda method: -shares[method][0])
    shown = [method for index, method in enumerate(ranked) if index < NUM_NAMED or method in pair]
    if not shown:
        return ""
    words = [f"{method} {_with_price(*shares[method])}" for method in shown]
    rest = f"; {len(ranked) - len(shown)} others recover less" if len(ranked) > len(shown) else ""
    loss = f"the loss on {ROLE_NAMES[reference_shift(rows) or '']}"
    return f"Recovered fraction of {loss}, at the strengths chosen on validation: {'; '.join(words)}{rest}."


def _beyond(rows: Sequence[Row]) -> str:
    beyond = list(dict.fromkeys(row["method"] for row in rows if not row["within_tolerance"]))
    if not beyond:
        return ""
    return (
        f"Every strength tried of {_listed(beyond)} loses more validation accuracy than --tolerance allows: the one "
        "that loses least is shown."
    )


def _wise(rows: Sequence[Row]) -> str:
    """What averaging with zero-shot does at the fixed alpha and at the chosen one."""
    found = [
        f"{_with_price(*recovered)} at {words} alpha {row['alpha']:g}"
        for form, words in zip(FORMS[1:], ("the fixed", "the chosen"), strict=True)
        if (row := row_of(rows, PLAIN, form)) and (recovered := _recovered(rows, row))
    ]
    if not found:
        return ""
    shares = " and ".join(found)
    return f"WiSE, averaging the weights of plain fine-tuning and zero-shot, recovers {shares}, without any penalty."


def _with_price(share: float, price: float) -> str:
    return f"{100 * share:.0f} % (in distribution {points(price)})".replace("-", MINUS)


def _recovered(rows: Sequence[Row], row: Row) -> tuple[float, float] | None:
    """Which share of plain fine-tuning's loss a row recovers, and what it changes in distribution."""
    zero, plain, shift = row_of(rows, ZERO_SHOT), row_of(rows, PLAIN), reference_shift(rows)
    if zero is None or plain is None or not shift:
        return None
    share = recovered_fraction(*(each[f"{shift}/accuracy"] for each in (row, zero, plain)))
    home = home_measure(rows)
    return None if share is None else (share, row[home] - plain[home])


def _compared(rows: Sequence[Row], pooled: Pooled, pair: Pair) -> str:
    found, lines = matched_comparison(rows, pooled, pair), matched_lines(rows, pooled, pair)
    if found is None or lines is None:
        return ""
    differences = {ROLE_NAMES[role]: found.by_role[role] for role in SHIFTS if role in found.by_role}
    words = [f"{interval_text(one)} on {name} ({_verdict(one, pair)})" for name, one in differences.items()]
    gaps = [f"{interval_text(gap)} on {ROLE_NAMES[role]}" for role, gap in found.mean_gaps.items() if role in SHIFTS]
    area = f" Between the frontiers, on average: {_listed(gaps)}." if gaps else ""
    equal = f"at equal in-distribution accuracy ({percent(lines.at)} %), interpolated"
    return f"{pair[0]} against {pair[1]} {equal}: {_listed(words)}.{area}"


def _verdict(difference: Difference, pair: Pair) -> str:
    if difference.seeds.num_seeds < 2:
        return ONE_SEED
    if not difference.is_sure:
        return "not significant"
    return f"{pair[0] if difference.value > 0 else pair[1]} is better"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def explained_networks(rows: Sequence[Row], networks: Mapping[str, Network]) -> list[tuple[str, str]]:
    """Which networks are explained, in words, and where."""
    found = []
    for folder, network in networks.items():
        row, strength = row_of(rows, network.method), network.number(STRENGTH)
        assert row is None or row["strength"] == strength, f"{folder} explains another network than the report chose"
        by = "which was not tested" if row is None else "as chosen above" if strength else "without a strength"
        found.append((f"{network.label}, seed {network.seed}, {by}, without WiSE", f"../{folder}/explanation.html"))
    return found
