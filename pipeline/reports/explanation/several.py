"""Several networks explained side by side: a page each, and one that compares them, such as the strengths of a sweep.

`explanation.html` has a line per network and a table of what each did to the same latents, whose rows of all networks
are in `cards.parquet`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from amalgam.pipeline.reports.builder import Report
from amalgam.pipeline.reports.explanation.build import Material, explain
from amalgam.pipeline.reports.explanation.head import trained
from amalgam.pipeline.reports.explanation.page import STEM, balance
from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.pipeline.reports.explanation.sentences import percent, signed
from amalgam.pipeline.reports.explanation.tables import NamedExplanation, num_changed, write_table

MOST = 200  # latents in the page
FULL = 0.5  # effect on a logit that is coloured most strongly


def explain_several(
    request: ExplainRequest, afters: Sequence[Path], material: Material, folder: Path
) -> dict[str, NamedExplanation]:
    """Write a folder for each network and the page that compares them; the explanations by name.

    Raises ValueError as `explain` does, and for networks of one name.
    """
    names = [after.name for after in afters]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two of the networks lie in folders called {twice!r}: rename one")
    found, tables = {}, []
    for name, after in zip(names, afters, strict=True):
        (folder / name).mkdir()
        found[name] = explain(replace(request, after=after, title=f"{request.title}: {name}"), material, folder / name)
        cards = pq.read_table(folder / name / "cards.parquet")
        tables.append(cards.add_column(0, "network", pa.array([name] * len(cards))))
    write_table(pa.concat_tables(tables), folder / "cards.parquet")
    heads = {name: trained(after) for name, after in zip(names, afters, strict=True)}
    settings = {"before": str(request.before), "after": [str(after) for after in afters]}
    values = {"networks": _networks(found, heads), "domains": next(iter(found.values())).domains, **_latents(found)}
    Report(STEM, request.title, "explanations.html.j2", settings, values).write(folder)
    return found


def _networks(found: dict[str, NamedExplanation], heads: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    rows = []
    for name, explanation in found.items():
        share = explanation.found.flips.explained_share
        numbers = [num_changed(explanation), int(explanation.found.flips.numbers.sum())]
        explained = "" if share is None else percent(share)
        rows.append(
            {
                "name": name,
                "about": "; ".join(f"{fact} {text}" for fact, text in heads[name].items()),
                "strength": heads[name].get("strength"),
                "balance": [(row["numbers"][3], row["verdict"]) for row in balance(explanation)],
                "numbers": [*(f"{number:,}" for number in numbers), explained],
            }
        )
    return rows


def _latents(found: dict[str, NamedExplanation]) -> dict[str, Any]:
    """The effects of all networks on the latents that any of them changed most."""
    effects = {name: explanation.found.changes.overall for name, explanation in found.items()}
    largest = {latent: 0.0 for each in found.values() for latent in each.ranked()}
    for latent in largest:
        largest[latent] = max(abs(each.effect[0, latent].item()) for each in effects.values())
    first, rows = next(iter(found.values())), []
    for latent in sorted(largest, key=lambda latent: -largest[latent])[:MOST]:
        cells = []
        for each in effects.values():
            effect = each.effect[0, latent].item()
            came, went = (percent(rate[0, latent].item()) for rate in (each.added_rate, each.removed_rate))
            shade = max(-1.0, min(1.0, effect / FULL))
            cells.append(
                {"effect": signed(effect, 3), "moved": f"activated {came}, deactivated {went}", "shade": shade}
            )
        rows.append({"label": first.label(latent), "cells": cells})
    return {"latents": rows, "others": len(largest) - len(rows)}
