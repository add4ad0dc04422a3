"""The page of a night: what fell, on which measure, since when, and what changed since the night before."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from amalgam.pipeline.reports.builder import Report
from amalgam.tasks.scoring.nights import Finding

STEM = "verdict"
MOST_PANELS, COLUMNS = 12, 3
SIZE = (4.0, 2.1)  # inches of a panel
COLOURS = {
    "regression": "#D55E00",
    "decline": "#D55E00",
    "improvement": "#009E73",
    "steady": "#0072B2",
    "new": "#0072B2",
}
WORDS = {
    "regression": "fell",
    "decline": "declines slowly",
    "improvement": "rose",
    "steady": "as before",
    "new": "nothing to compare with",
}


def night_report(
    title: str,
    findings: Sequence[Finding],
    history: Sequence[Mapping[str, float]],
    days: Sequence[str],
    changed: Sequence[str],
    settings: Mapping[str, Any],
) -> Report:
    """The report of a night; `history` are the metrics of the nights before and of this one, `days` their names."""
    ordered = sorted(findings, key=lambda one: (not one.is_bad, -one.fall))
    rows = [_row(one, days) for one in ordered]
    values = {"sentence": sentence(findings, days), "rows": rows, "changed": changed}
    figures = {STEM: night_figure(ordered[:MOST_PANELS], history, days)} if len(days) > 1 else {}
    return Report(STEM, title, "night.html.j2", settings, values, {STEM: rows}, figures)


def sentence(findings: Sequence[Finding], days: Sequence[str]) -> str:
    """The verdict in one sentence."""
    bad = [one for one in findings if one.is_bad]
    if not bad:
        return f"As good as before: none of {len(findings)} metrics fell beyond noise and tolerance."
    worst = max(bad, key=lambda one: one.fall)
    since = f" since {days[worst.since]}" if worst.since is not None else ""
    return (
        f"Regression: {len(bad)} of {len(findings)} metrics fell; the most {worst.metric}, "
        f"by {worst.fall:.4g} to {worst.value:.4g}{since}."
    )


def night_figure(findings: Sequence[Finding], history: Sequence[Mapping[str, float]], days: Sequence[str]) -> Figure:
    """A panel for each metric: its value night by night, and what tonight's is compared with."""
    rows = -(-len(findings) // COLUMNS)
    figure = Figure(figsize=(SIZE[0] * COLUMNS, SIZE[1] * rows), layout="constrained")
    for panel, one in enumerate(findings, start=1):
        axes = figure.add_subplot(rows, COLUMNS, panel)
        known = {place: night[one.metric] for place, night in enumerate(history) if one.metric in night}
        axes.plot(list(known), list(known.values()), "o-", color="#999999", markersize=3)
        axes.plot([len(days) - 1], [one.value], "o", color=COLOURS[one.kind], markersize=7)
        if one.level is not None:
            axes.axhline(one.level, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{one.metric}: {WORDS[one.kind]}", fontsize=9, loc="left", parse_math=False)
        axes.set_xticks([0, len(days) - 1], [days[0], days[-1]], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _row(one: Finding, days: Sequence[str]) -> dict[str, Any]:
    return {
        "label": one.metric,
        "verdict": WORDS[one.kind],
        "bad": one.is_bad,
        "value": one.value,
        "compared_with": one.level,
        "fall": one.fall,
        "noise": one.noise,
        "since": None if one.since is None else days[one.since],
    }
