"""The frontier picture: accuracy against what a network costs, members and ensembles on the same axes.

Two panels, nonzero FLOPs and nonzero parameters, both as multiples of one member. Colours are Okabe and Ito's, which
the colour-blind tell apart: one for each treatment (recalibrated, fine-tuned, weights), a marker for each method.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amalgam.pipeline.reports.frontier.table import RELATIVE
from amalgam.pipeline.reports.tables import DEVIATION, Row, plain

PANELS = {"nonzero_flops": "FLOPs", "nonzero_parameters": "parameters"}
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
TREATMENT_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
SINGLE: dict[str, dict[str, Any]] = {
    "member": {"marker": "o", "color": "#777777", "markersize": 7},
    "logit ensemble": {"marker": "*", "color": "black", "markersize": 17, "markerfacecolor": "none", "zorder": 5},
    "probability ensemble": {"marker": "p", "color": ORANGE, "markersize": 14, "markerfacecolor": "none", "zorder": 4},
}
"""Looks of what is no fused network; other ensembles look as methods do."""
METHOD_MARKERS, CURVE_MARKERS = "XPdhH8", "sDv^<>"


def frontier_figure(rows: Sequence[Row], title: str) -> Figure:
    """The picture, 12 by 5.6 inches, its error bars one standard deviation over seeds."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (cost, name) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(axes, [row for row in rows if row.get(RELATIVE + cost) is not None], cost)
        axes.set_xlabel(f"nonzero {name}, as a multiple of one member's")
    panels[0].set_ylabel("test accuracy (%)")
    seeds = max(row["seeds"] for row in rows)
    bars = f"; error bars: standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"
    figure.suptitle(f"{plain(title)}\n", fontsize=14, x=0.01, ha="left", weight="bold")
    figure.text(0.01, 0.915, f"Up and to the left is better{bars}", fontsize=10, color="#444444")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    colours = dict(zip(_grouped(rows, "treatment"), cycle(TREATMENT_COLOURS), strict=False))
    markers = dict(zip(_grouped(rows, "series"), cycle(METHOD_MARKERS), strict=False))
    curves = list[list[Row]]()
    for (series, treatment), group in _grouped(rows, "series", "treatment").items():
        name = ", ".join(filter(None, (series, treatment)))
        if len({row["alpha"] for row in group}) > 1:
            curves.append(sorted(group, key=lambda row: row["alpha"]))
            look = {"marker": CURVE_MARKERS[(len(curves) - 1) % len(CURVE_MARKERS)], "markersize": 5}
            look |= {"color": colours[treatment], "linestyle": "--" if treatment else "-"}
            _draw(axes, curves[-1], cost, name, **look)
        else:
            look = SINGLE.get(series, {"marker": markers[series], "color": "black", "markersize": 8})
            colour = {"color": colours[treatment]} if treatment else {}
            _draw(
                axes,
                group,
                cost,
                "members" + name[len("member") :] if series == "member" else name,
                **(look | colour),
                linestyle="none",
            )
    for row in rows:
        if row["method"] == "logit ensemble":
            axes.axhline(100 * row["accuracy"], color="black", linewidth=0.8, linestyle=":", alpha=0.6, zorder=0)
    if curves:
        _name_alphas(axes, max(curves, key=lambda group: sum(row["accuracy"] for row in group)), cost)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8))


def _draw(axes: Axes, rows: Sequence[Row], cost: str, label: str, **look: Any) -> None:
    costs, scores = [row[RELATIVE + cost] for row in rows], [100 * row["accuracy"] for row in rows]
    bars = [100 * (row["accuracy" + DEVIATION] or 0) for row in rows]
    axes.errorbar(costs, scores, bars, label=plain(label), capsize=2.5, elinewidth=0.9, linewidth=1.6, **look)


def _name_alphas(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """Write alpha above the points of one curve: the others have theirs at the same costs."""
    for row in rows:
        name = f"$\\alpha$ = {row['alpha']:g}" if row is rows[0] else f"{row['alpha']:g}"
        place = (row[RELATIVE + cost], 100 * (row["accuracy"] + (row["accuracy" + DEVIATION] or 0)))
        axes.annotate(
            name,
            place,
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color="#333333",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
            zorder=1,
        )


def _grouped(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """The rows by the values of some fields, of one field by its value alone, in order."""
    key: Callable[[Row], Any] = (
        (lambda row: row[names[0]]) if len(names) == 1 else lambda row: tuple(map(row.get, names))
    )
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
