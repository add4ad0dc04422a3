"""The page of an explanation, `explanation.html`: one file, nothing to fetch, for readers who know no code.

Sentences first, then charts, then what each changed latent looks like, what it caused, and which predictions flipped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from amalgam.pipeline.reports.builder import Report
from amalgam.pipeline.reports.explanation.figure import domains_figure, inline_png, latents_figure
from amalgam.pipeline.reports.explanation.sentences import headline, number_text, percent, signed, warnings
from amalgam.pipeline.reports.explanation.tables import NamedExplanation
from amalgam.tasks.explain.flips import KINDS, FlipGroup
from amalgam.tasks.explain.latents import LatentTable
from amalgam.tasks.explain.parts import ReadPart, outlined

STEM = "explanation"
MOST_LATENTS, MOST_GROUPS, STRIP = 20, 6, 8  # latents, flip groups of a kind and images of a latent that are shown
OUTLINE = (255, 140, 0)
Pixels = Callable[[int], Tensor]
"""The image of a number in the stream, uint8 (channels, height, width)."""


Part = Callable[[int, int], ReadPart | None]
"""The part of the image of a number that a latent reads; None where it is not active after fine-tuning."""


def explanation_report(album: "Album", settings: Mapping[str, Any]) -> Report:
    """The page and its two charts; `settings` are what a reader may ask how it was made."""
    explanation = album.explanation
    latents = explanation.ranked()[:MOST_LATENTS]
    charts = {"domains": domains_figure(explanation)}
    if latents:
        charts["latents"] = latents_figure(explanation, latents, [_label(explanation, latent) for latent in latents])
    values = {
        "sentences": headline(explanation),
        "warnings": warnings(explanation),
        "domains": _domain_rows(explanation),
        "latents": [_latent(explanation, latent, album) for latent in latents],
        "named": explanation.names is not None,
        "judged": explanation.judged,
        "judged_by_atoms": explanation.judged_by_atoms,
        "truth_known": explanation.shown is not None,
        "threshold": None if explanation.names is None else f"{explanation.names.threshold:.2f}",
        "kinds": [_flips(explanation, kind, album) for kind in KINDS],
    }
    return Report(STEM, explanation.title, "explanation.html.j2", settings, values, charts=charts)


class Album:
    """Images as the page shows them, with what is known of each as a caption."""

    def __init__(self, explanation: NamedExplanation, pixels: Pixels, part: Part) -> None:
        self.explanation, self.pixels, self.part = explanation, pixels, part

    def strip(self, table: LatentTable, latent: int) -> list[dict[str, str]]:
        """The strongest images of a latent, each with the part that the latent reads outlined."""
        rows, values = table.top_rows[latent].tolist()[:STRIP], table.top_values[latent].tolist()
        return [self._read(latent, row, value) for row, value in zip(rows, values, strict=False) if row >= 0]

    def image(self, row: int) -> dict[str, str]:
        """One image."""
        domain, position = self.explanation.place(row)
        return {"png": inline_png(self.pixels(row)), "title": f"{domain}, image {position}"}

    def _read(self, latent: int, row: int, value: float) -> dict[str, str]:
        shown, part = self.image(row), self.part(latent, row)
        title = f"{shown['title']}, activation {value:.2f}"
        if part is None:
            return {"png": shown["png"], "title": title}
        png = inline_png(outlined(self.pixels(row), part.mask, OUTLINE))
        return {"png": png, "title": f"{title}, of which the outlined part carries {percent(part.share)}"}


def _label(explanation: NamedExplanation, latent: int) -> str:
    word = explanation.word(latent)
    return str(latent) if word is None else f"{word} ({latent})"


def _domain_rows(explanation: NamedExplanation) -> list[list[str]]:
    found, rows = explanation.found, []
    for number, domain in enumerate(explanation.domains):
        before, after = (found.accuracies[piece][number].item() for piece in ("before", "after"))
        flips = found.flips.by_domain[number].long().tolist()
        images, accuracies = f"{int(found.num_images[number]):,}", (percent(before), percent(after))
        rows.append([domain, images, *accuracies, *map(str, flips), *(f"{fvu:.2f}" for fvu in found.fvu[number].tolist())])
    return rows


def _latent(explanation: NamedExplanation, latent: int, album: Album) -> dict[str, Any]:
    found, overall = explanation.found, explanation.found.changes.overall
    words: Sequence[str] = ()
    if explanation.names is not None:
        scored = zip(explanation.names.best[latent].tolist(), explanation.names.scores[latent].tolist(), strict=True)
        words = [f"{explanation.names.words[word]} {score:.2f}" for word, score in scored]
    return {
        "number": latent,
        "word": explanation.word(latent),
        "words": ", ".join(words),
        "shows": ", ".join(explanation.truth(latent)) or "no single factor",
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


def _flips(explanation: NamedExplanation, kind: str, album: Album) -> dict[str, Any]:
    flips, place = explanation.found.flips, KINDS.index(kind)
    number = int(flips.numbers[place])
    groups = [group for group in flips.groups if group.kind == kind]
    return {
        "kind": kind,
        "number": f"{number:,}",
        "explained": percent(flips.explained[place].item() / number) if number else "",
        "alone": percent(flips.alone[place].item() / number) if number else "",
        "groups": [_group(explanation, group, album) for group in groups[:MOST_GROUPS]],
        "others": len(groups) - MOST_GROUPS,
    }


def _group(explanation: NamedExplanation, group: FlipGroup, album: Album) -> dict[str, Any]:
    return {
        "label": _label(explanation, group.latent),
        "number": group.number,
        "share": percent(group.share),
        "images": [album.image(row) for row in group.examples],
    }
