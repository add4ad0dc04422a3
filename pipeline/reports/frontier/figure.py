"""The frontier picture: accuracy against what a network costs, members and ensembles on the same axes.

Two panels, nonzero FLOPs and nonzero parameters, both as multiples of one member. Colours are Okabe and Ito's, which
the colour-blind tell apart: one for each treatment (recalibrated, fine-tuned, weights), a marker for each role.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amalgam.pipeline.reports.files import DEVIATION, Row
from amalgam.pipeline.reports.frontier.table import RELATIVE

PANELS = {"nonzero_flops": "FLOPs", "nonzero_parameters": "parameters"}
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
CURVE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
SINGLE: dict[str, dict[str, Any]] = {
    "member": {"marker": "o", "color": "#777777", "markersize": 7},
    "logit ensemble": {"marker": "*", "color": "black", "markersize": 17, "markerfacecolor": "none", "zorder": 5},
    "probability ensemble": {"marker": "p", "color": ORANGE, "markersize": 14, "markerfacecolor": "none", "zorder": 4},
    "naive": {"marker": "X", "color": "black", "markersize": 8},
}
CURVE_ROLES = ("aligned", "partial fusion")


def frontier_figure(rows: Sequence[Row], title: str) -> Figure:
    """The picture, 12 by 5.6 inches, its error bars one standard deviation over seeds."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (cost, name) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(axes, rows, cost)
        axes.set_xlabel(f"nonzero {name}, as a multiple of one member's")
    panels[0].set_ylabel("test accuracy (%)")
    seeds = max(row["seeds"] for row in rows)
    bars = f"; error bars: standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"
    figure.suptitle(f"{title}\n", fontsize=14, x=0.01, ha="left", weight="bold")
    figure.text(0.01, 0.915, f"Up and to the left is better{bars}", fontsize=10, color="#444444")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    placed = [row for row in rows if row.get(RELATIVE + cost) is not None]
    colours = dict(zip(_by_mark(placed), cycle(CURVE_COLOURS), strict=False))
    for role, look in SINGLE.items():
        for mark, group in _by_mark(row for row in placed if row["role"] == role).items():
            name = "members" if role == "member" else role
            colour = {"color": colours[mark]} if mark else {}
            _draw(axes, group, cost, name + mark, linestyle="none", **(look | colour))
    for row in placed:
        if row["role"] == "logit ensemble":
            axes.axhline(100 * row["accuracy"], color="black", linewidth=0.8, linestyle=":", alpha=0.6, zorder=0)
    curves = _by_mark(row for row in placed if row["role"] in CURVE_ROLES)
    for (mark, group), marker in zip(curves.items(), cycle("sDv^<>"), strict=False):
        look = {"color": colours[mark], "marker": marker, "markersize": 5, "linestyle": "--" if mark else "-"}
        _draw(axes, group, cost, f"partial fusion{mark}", **look)
    if curves:
        _name_alphas(axes, max(curves.values(), key=lambda group: sum(row["accuracy"] for row in group)), cost)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8))


def _draw(axes: Axes, rows: Sequence[Row], cost: str, label: str, **look: Any) -> None:
    costs, scores = [row[RELATIVE + cost] for row in rows], [100 * row["accuracy"] for row in rows]
    bars = [100 * (row["accuracy" + DEVIATION] or 0) for row in rows]
    axes.errorbar(costs, scores, bars, label=label, capsize=2.5, elinewidth=0.9, linewidth=1.6, **look)


def _name_alphas(axes: Axes, rows: Sequence[Row], cost: str) -> None:
    """Write alpha above the points of one curve: the others have theirs at the same costs."""
    for row in rows:
        alpha = row["alpha"] or 0
        name = f"$\\alpha$ = {alpha:g}" if row is rows[0] else f"{alpha:g}"
        place = (row[RELATIVE + cost], 100 * (row["accuracy"] + (row["accuracy" + DEVIATION] or 0)))
        axes.annotate(
            name, place, (0, 6), textcoords="offset points", ha="center", fontsize=8.5, color="#333333",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}, zorder=1,
        )  # fmt: skip


def _by_mark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by what follows the first comma of their labels, such as `, recalibrated`."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        _, comma, mark = row["label"].partition(",")
        groups.setdefault(comma + mark, []).append(row)
    return {mark: sorted(group, key=lambda row: row["alpha"] or 0) for mark, group in groups.items()}
