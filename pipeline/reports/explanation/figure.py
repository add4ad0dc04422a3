"""The chart of an explanation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amalgam.pipeline.reports.explanation.tables import NamedExplanation
from amalgam.pipeline.reports.frontier.figure import BLUE, GREEN, ORANGE
from amalgam.pipeline.reports.tables import plain
from amalgam.tasks.explain.decomposition import NAMES as PARTS

PART_LOOK = {"latents": (BLUE, "latents"), "error": (ORANGE, "SAE error"), "head": ("#999999", "head")}
PIECE_LOOK = {
    "before": ("o", "#777777", "before"),
    "after": ("o", "black", "after"),
    "latents back": ("D", BLUE, "after, latents reset"),
    "error back": ("s", ORANGE, "after, SAE error reset"),
    "head back": ("v", GREEN, "after, head reset"),
}
LINE, AROUND = 0.3, 1.5  # inches: one row of a chart, and what stands around all


def domains_figure(explanation: NamedExplanation) -> Figure:
    """Per domain: accuracy, also with a part reset, and what caused the change of the true-class logit."""
    names = [*explanation.domains, "all images"] if len(explanation.domains) > 1 else list(explanation.domains)
    rows = np.arange(len(names))
    figure, (left, right) = _panels(len(names))
    for piece, (marker, colour, label) in PIECE_LOOK.items():
        values = 100 * explanation.found.accuracies[piece].cpu().numpy()[: len(names)]
        filled = "none" if piece == "before" else colour
        left.plot(values, rows, marker, color=colour, markerfacecolor=filled, label=label, alpha=0.85)
    start = np.zeros(len(names))
    for part in PARTS:
        colour, label = PART_LOOK[part]
        width = 100 * explanation.found.shares.share(part).cpu().numpy()[: len(names)]
        right.barh(rows, width, left=start, color=colour, label=label, height=0.65)
        start = start + width
    left.set_xlabel("accuracy (%)")
    right.set_xlabel("share of the absolute change of the true-class logit (%)")
    right.set_xlim(0, 100)
    _finish(figure, (left, right), names)
    return figure


def _panels(num_rows: int) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(12, AROUND + LINE * num_rows), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    return figure, (left, right)


def _finish(figure: Figure, panels: tuple[Axes, Axes], labels: Sequence[str]) -> None:
    for axes in panels:
        axes.set_yticks(np.arange(len(labels)), [plain(label) for label in labels])
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=9)
    panels[0].invert_yaxis()
