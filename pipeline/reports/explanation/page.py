"""The page of an explanation, `explanation.html`: one file, nothing to fetch, for readers who know no code.

Sentences first, then charts, then what each changed latent looks like, what it caused, and which predictions flipped.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from amalgam.pipeline.reports.explanation.figure import domains_figure, inline_png, latents_figure
from amalgam.pipeline.reports.explanation.sentences import headline, number_text, percent, signed, warnings
from amalgam.pipeline.reports.explanation.tables import Told
from amalgam.pipeline.reports.files import render
from amalgam.tasks.explain.flips import KINDS, FlipGroup
from amalgam.tasks.explain.latents import LatentTable

PAGE = "explanation.html"
MOST_LATENTS, MOST_GROUPS, STRIP = 20, 6, 8  # latents, flip groups of a kind and images of a latent that are shown
Pixels = Callable[[int], Tensor]
"""The image of a number in the stream, uint8 (channels, height, width)."""


def write_page(told: Told, pixels: Pixels, settings: Mapping[str, Any], folder: Path) -> None:
    """Write the page into an existing folder; `settings` are what a reader may ask how it was made."""
    latents = told.ranked()[:MOST_LATENTS]
    album = _Album(told, pixels)
    page = render(
        "explain.html.j2",
        title=told.title,
        sentences=headline(told),
        warnings=warnings(told),
        domains_chart=_svg(domains_figure(told)),
        latents_chart=_svg(latents_figure(told, latents, [_label(told, latent) for latent in latents]))
        if latents
        else "",
        domains=_domain_rows(told),
        latents=[_latent(told, latent, album) for latent in latents],
        named=told.names is not None,
        judged=told.judged,
        judged_by_atoms=told.judged_by_atoms,
        truth_known=told.shown is not None,
        threshold=None if told.names is None else f"{told.names.threshold:.2f}",
        kinds=[_flips(told, kind, album) for kind in KINDS],
        config=settings,
        provenance=[],
    )
    (folder / PAGE).write_text(page)


class _Album:
    """Images as the page shows them, with what is known of each as a caption."""

    def __init__(self, told: Told, pixels: Pixels) -> None:
        self.told, self.pixels = told, pixels

    def strip(self, table: LatentTable, latent: int) -> list[dict[str, str]]:
        """The strongest images of a latent."""
        rows, values = table.top_rows[latent].tolist()[:STRIP], table.top_values[latent].tolist()
        return [self.image(row, f"{value:.2f}") for row, value in zip(rows, values, strict=False) if row >= 0]

    def image(self, row: int, note: str = "") -> dict[str, str]:
        """One image."""
        domain, position = self.told.place(row)
        title = f"{domain}, image {position}" + (f", activation {note}" if note else "")
        return {"png": inline_png(self.pixels(row)), "title": title}


def _svg(figure: Figure) -> str:
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg")
    return base64.b64encode(drawing.getvalue()).decode()


def _label(told: Told, latent: int) -> str:
    word = told.word(latent)
    return str(latent) if word is None else f"{word} ({latent})"


def _domain_rows(told: Told) -> list[list[str]]:
    found, rows = told.found, []
    for number, domain in enumerate(told.domains):
        before, after = (found.accuracies[piece][number].item() for piece in ("before", "after"))
        old, new = found.quality[number]
        flips = found.flips.by_domain[number].long().tolist()
        images, accuracies = f"{int(found.num_images[number]):,}", (percent(before), percent(after))
        rows.append([domain, images, *accuracies, *map(str, flips), f"{old.fvu:.2f}", f"{new.fvu:.2f}"])
    return rows


def _latent(told: Told, latent: int, album: _Album) -> dict[str, Any]:
    found, overall = told.found, told.found.changes.overall
    words: Sequence[str] = ()
    if told.names is not None:
        scored = zip(told.names.best[latent].tolist(), told.names.scores[latent].tolist(), strict=True)
        words = [f"{told.names.words[word]} {score:.2f}" for word, score in scored]
    return {
        "number": latent,
        "word": told.word(latent),
        "words": ", ".join(words),
        "shows": ", ".join(told.truth(latent)) or "no one factor",
        "numbers": [
            percent(found.before.firing_rates[latent].item()),
            percent(found.after.firing_rates[latent].item()),
            percent(overall.added_rate[0, latent].item()),
            percent(overall.removed_rate[0, latent].item()),
            number_text(overall.p[0, latent].item()),
            number_text(overall.q[0, latent].item()),
            signed(overall.effect[0, latent].item(), 3),
            f"{int(found.clamps['before'].restored[latent]):,}",
            signed(100 * found.clamps["before"].accuracy_change[latent].item(), 2),
            signed(100 * found.clamps["zero"].accuracy_change[latent].item(), 2),
        ],
        "before": album.strip(found.before, latent),
        "after": album.strip(found.after, latent),
    }


def _flips(told: Told, kind: str, album: _Album) -> dict[str, Any]:
    flips, place = told.found.flips, KINDS.index(kind)
    number = int(flips.numbers[place])
    groups = [group for group in flips.groups if group.kind == kind]
    return {
        "kind": kind,
        "number": f"{number:,}",
        "explained": percent(flips.explained[place].item() / number) if number else "",
        "alone": percent(flips.alone[place].item() / number) if number else "",
        "groups": [_group(told, group, album) for group in groups[:MOST_GROUPS]],
        "others": len(groups) - MOST_GROUPS,
    }


def _group(told: Told, group: FlipGroup, album: _Album) -> dict[str, Any]:
    return {
        "label": _label(told, group.latent),
        "number": group.number,
        "share": percent(group.share),
        "images": [album.image(row) for row in group.examples],
    }
