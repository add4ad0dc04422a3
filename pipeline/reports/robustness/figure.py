"""The robustness picture: accuracy in distribution against accuracy on shifts, a curve per fine-tuning method.

The upper row shows every strength of every penalty without WiSE; the lower one, if averages with zero-shot were tested,
the WiSE paths, from zero-shot to each fine-tuned network at its chosen strength. Plain fine-tuning's WiSE path, the
simplest remedy, is in both. Colours are Okabe and Ito's, and each fine-tuning method has its marker and its line:
it can be read without colour.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amalgam.pipeline.reports.frontier.figure import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from amalgam.pipeline.reports.robustness.config import PLAIN, ZERO_SHOT
from amalgam.pipeline.reports.robustness.table import VALIDATION, home_measure, is_averaged, roles_of
from amalgam.pipeline.reports.tables import PAIRED, Row, plain
from amalgam.tasks.scoring.comparing import SHIFTS

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#777777")
MARKERS = "sDv^P<X>pdh"
LINES = ("-", "--", "-.", ":")
PANEL_NAMES = {
    "seen": "shifts seen in pre-training",
    "unseen": "unseen shifts",
    "natural": "natural shifts",
}
HEADINGS = (
    "Fine-tuned: along each curve the penalty grows",
    "The same, averaged with zero-shot (WiSE): alpha grows from the star",
)
HOME = "home"  # the measure across
Look = dict[str, Any]


def robustness_figure(rows: Sequence[Row], title: str) -> Figure:
    """The picture, 12 inches wide, of a report's rows; error bars are one paired deviation over seeds."""
    shifts, home = [role for role in SHIFTS if role in roles_of(rows)], home_measure(rows)
    rows = [row | {HOME: row[home], HOME + PAIRED: row[home + PAIRED]} for row in rows]
    drawings = (_draw_strengths, _draw_paths)[: 2 if is_averaged(rows) else 1]
    figure = Figure(figsize=(12, 1.2 + 5.1 * len(drawings)), layout="constrained")
    panels = figure.subplots(len(drawings), max(1, len(shifts)), sharex=True, sharey="col", squeeze=False)
    looks = _looks(rows)
    for column, role in enumerate(shifts):
        for axes, draw in zip(panels[:, column], drawings, strict=True):
            draw(axes, rows, f"{role}/accuracy", looks)
            _draw_zero_shot(axes, rows, f"{role}/accuracy")
            _finish(axes)
            axes.set_ylabel(f"accuracy on {PANEL_NAMES[role]} (%)")
        panels[-1, column].set_xlabel(f"in-distribution accuracy{', held-out images' * (home == VALIDATION)} (%)")
    for axes, heading in zip(panels[:, 0], HEADINGS, strict=False):
        axes.set_title(heading, loc="left", weight="bold", fontsize=11)
    if shifts:
        _name_what_matters(panels[0, 0], rows, f"{shifts[0]}/accuracy")
    _caption(figure, rows, title)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=10)
    return figure


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    """A colour, a marker and a line for each fine-tuning method; plain fine-tuning is black."""
    others = [method for method in dict.fromkeys(row["method"] for row in rows) if method not in (ZERO_SHOT, PLAIN)]
    looks: dict[str, Look] = {PLAIN: {"color": "black", "marker": "o", "linestyle": (0, (1, 1))}}
    for index, (method, colour, marker) in enumerate(zip(others, cycle(COLOURS), cycle(MARKERS), strict=False)):
        looks[method] = {"color": colour, "marker": marker, "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
    return looks


def _draw_strengths(axes: Axes, rows: Sequence[Row], measure: str, looks: dict[str, Look]) -> None:
    for method, look in looks.items():
        tuned = [row for row in rows if row["method"] == method and row["alpha"] == 1]
        _line(axes, tuned, measure, **look, linewidth=1.5)
        _chosen(axes, [row for row in tuned if row["chosen_strength"]], measure, method, look)
    _draw_path(axes, rows, measure, PLAIN, looks[PLAIN])


def _draw_paths(axes: Axes, rows: Sequence[Row], measure: str, looks: dict[str, Look]) -> None:
    for method, look in looks.items():
        path = _draw_path(axes, rows, measure, method, look)
        _chosen(axes, [row for row in path if row["chosen_alpha"]], measure, method, look)


def _draw_path(axes: Axes, rows: Sequence[Row], measure: str, method: str, look: Look) -> list[Row]:
    path = [row for row in rows if row["method"] == method and row["chosen_strength"]]
    _line(axes, path, measure, **look, linewidth=0.9)
    return path


def _line(axes: Axes, rows: Sequence[Row], measure: str, **look: Any) -> None:
    x, y = _places(rows, measure)
    axes.plot(x, y, markersize=4, markerfacecolor="white", markeredgewidth=0.9, **look)


def _chosen(axes: Axes, rows: Sequence[Row], measure: str, method: str, look: Look) -> None:
    """The points that validation chose, large, with their deviations."""
    x, y = _places(rows, measure)
    x_bars, y_bars = ([100 * (row[name + PAIRED] or 0) for row in rows] for name in (HOME, measure))
    axes.errorbar(
        x,
        y,
        y_bars,
        x_bars,
        label=plain(method),
        markersize=9,
        markeredgecolor="black",
        markeredgewidth=0.8,
        elinewidth=0.9,
        linewidth=1.5,
        zorder=4,
        **look,
    )


def _draw_zero_shot(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    x, y = _places([row for row in rows if row["method"] == ZERO_SHOT], measure)
    axes.plot(
        x,
        y,
        marker="*",
        markersize=18,
        color="#F0E442",
        markeredgecolor="black",
        linestyle="none",
        label=ZERO_SHOT,
        zorder=5,
    )
    axes.axvline(x[0], color="black", linewidth=0.8, alpha=0.35, zorder=0)
    axes.axhline(y[0], color="black", linewidth=0.8, alpha=0.35, zorder=0)


def _name_what_matters(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """Write beside the two ends that all share, and beside the path between them, what they are."""
    plain = {row["alpha"]: row for row in rows if row["method"] == PLAIN}
    inner = sorted(alpha for alpha in plain if 0 < alpha < 1)
    zero_shot = next(row for row in rows if row["method"] == ZERO_SHOT)
    _name(axes, "zero-shot", zero_shot, measure, (10, 8), "left")
    if 1.0 in plain:
        _name(axes, "plain fine-tuning", plain[1.0], measure, (-8, -16), "right")
    if inner:
        _name(axes, "WiSE on plain fine-tuning", plain[min(inner, key=_from_middle)], measure, (6, 8), "center")


def _from_middle(alpha: float) -> float:
    """Distance to where a path is farthest from all curves of penalties."""
    return abs(alpha - 0.35)


def _name(axes: Axes, text: str, row: Row, measure: str, offset: tuple[float, float], side: str) -> None:
    point = (100 * row[HOME], 100 * row[measure])
    axes.annotate(
        text,
        point,
        offset,
        textcoords="offset points",
        ha=side,
        fontsize=9.5,
        style="italic",
        color="#222222",
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
        zorder=1,
    )


def _places(rows: Sequence[Row], measure: str) -> tuple[list[float], list[float]]:
    return [100 * row[HOME] for row in rows], [100 * row[measure] for row in rows]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))


def _caption(figure: Figure, rows: Sequence[Row], title: str) -> None:
    seeds = max(row["seeds"] for row in rows)
    bars = f"; bars: paired standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"
    figure.suptitle(f"{plain(title)}\n\n", fontsize=14, x=0.01, ha="left", weight="bold")
    text = (
        f"Up and to the right is better; thin lines: zero-shot. Large marks: chosen on in-distribution validation{bars}"
    )
    below_title = 1 - 0.51 / figure.get_figheight()  # inches
    figure.text(0.01, below_title, text, fontsize=10, color="#444444")
