"""The page of an explanation, `explanation.html`: one file, nothing to fetch, for readers who know no code.

What was explained and what it gained and lost first, then sentences, a chart, a card for every latent, and which
predictions changed. A script in the page draws the cards from data in the page.
"""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from amalgam.pipeline.reports.builder import Report
from amalgam.pipeline.reports.explanation.cards import page_json
from amalgam.pipeline.reports.explanation.figure import domains_figure
from amalgam.pipeline.reports.explanation.pictured import PER_SIDE, Drawn, picture
from amalgam.pipeline.reports.explanation.sentences import headline, percent, signed, warnings
from amalgam.pipeline.reports.explanation.tables import NamedExplanation
from amalgam.tasks.explain.flips import KINDS, FlipGroup
from amalgam.tasks.explain.significance import paired_interval

STEM = "explanation"
MOST_GROUPS = 6  # flip groups of a kind that are shown
Pixels = Callable[[int], Tensor]
"""The image of a number in the stream, uint8 (channels, height, width)."""


def explanation_report(
    explanation: NamedExplanation, drawn: Drawn, pixels: Pixels, head: Mapping[str, str], settings: Mapping[str, Any]
) -> Report:
    """The page and its chart; `head` says which network it explains, `settings` are how the page was made."""
    evidence = explanation.names and explanation.names.evidence
    values = {
        "head": list(head.items()),
        "balance": balance(explanation),
        "sentences": headline(explanation),
        "warnings": warnings(explanation),
        "domains": _domain_rows(explanation),
        "data": _data(explanation, drawn),
        "grid": drawn.grid,
        "rendering": "pixelated" if drawn.tile < 32 else "auto",
        "named": explanation.names is not None,
        "judged": explanation.judged,
        "judged_by_atoms": explanation.judged_by_atoms,
        "threshold": None if explanation.names is None else f"{explanation.names.threshold:.2f}",
        "evidence": evidence and {"rate": f"{evidence.rate:.0%}"},
        "kinds": [_flips(explanation, kind, pixels) for kind in KINDS],
    }
    charts = {"domains": domains_figure(explanation)}
    return Report(STEM, explanation.title, "explanation.html.j2", settings, values, charts=charts)


def _data(explanation: NamedExplanation, drawn: Drawn) -> str:
    values = {name: getattr(drawn, name) for name in ("cards", "pictures", "autoencoder", "grid", "pictured")}
    values |= {"tiles": list(drawn.tiles), "per_side": PER_SIDE, "domains": list(explanation.domains)}
    return page_json(values | {"sheets": list(drawn.sheets)})


def balance(explanation: NamedExplanation) -> list[dict[str, Any]]:
    """What fine-tuning gained on the test set that it was for, the first one, and then what it cost on the others."""
    found, rows = explanation.found, []
    flips, images = found.flips.by_domain, found.num_images
    ends = paired_interval(flips[:, KINDS.index("wrong to right")], flips[:, KINDS.index("right to wrong")], images)
    for number, domain in enumerate(explanation.domains):
        before, after = (found.accuracies[piece][number].item() for piece in ("before", "after"))
        low, high = (100 * end[number].item() for end in ends)
        lost, gained, _ = flips[number].long().tolist()
        change = f"{signed(100 * (after - before), 1)} ({signed(low, 1)} to {signed(high, 1)})"
        numbers = [f"{int(images[number]):,}", percent(before), percent(after), change, f"{gained:,}", f"{lost:,}"]
        role = "purpose" if number == 0 else "side effect"
        verdict = "gain" if low > 0 else "loss" if high < 0 else ""
        rows.append({"name": domain, "role": role, "numbers": numbers, "verdict": verdict, "first": number == 1})
    return rows


def _domain_rows(explanation: NamedExplanation) -> list[list[str]]:
    found, rows = explanation.found, []
    for number, domain in enumerate(explanation.domains):
        before, after = (found.accuracies[piece][number].item() for piece in ("before", "after"))
        flips = found.flips.by_domain[number].long().tolist()
        images, accuracies = f"{int(found.num_images[number]):,}", (percent(before), percent(after))
        rows.append(
            [domain, images, *accuracies, *map(str, flips), *(f"{fvu:.2f}" for fvu in found.fvu[number].tolist())]
        )
    return rows


def _flips(explanation: NamedExplanation, kind: str, pixels: Pixels) -> dict[str, Any]:
    flips, place = explanation.found.flips, KINDS.index(kind)
    number = int(flips.numbers[place])
    groups = [group for group in flips.groups if group.kind == kind]
    return {
        "kind": kind,
        "number": f"{number:,}",
        "explained": percent(flips.explained[place].item() / number) if number else "",
        "alone": percent(flips.alone[place].item() / number) if number else "",
        "groups": [_group(explanation, group, pixels) for group in groups[:MOST_GROUPS]],
        "others": len(groups) - MOST_GROUPS,
    }


def _group(explanation: NamedExplanation, group: FlipGroup, pixels: Pixels) -> dict[str, Any]:
    return {
        "label": explanation.label(group.latent),
        "number": group.number,
        "share": percent(group.share),
        "images": [_image(explanation, row, pixels) for row in group.examples],
    }


def _image(explanation: NamedExplanation, row: int, pixels: Pixels) -> dict[str, str]:
    """One image with what it is."""
    domain, position = explanation.place(row)
    stored = io.BytesIO()
    picture(pixels(row)).save(stored, format="PNG", optimize=True)
    return {"png": base64.b64encode(stored.getvalue()).decode(), "title": f"{domain}, image {position}"}
