"""The cards of latents as tables, `cards.parquet` and `pictures.parquet`, and the same tables as the page's data.

`cards.parquet` has a row per latent that is ever active, and per latent that is new after fine-tuning;
`pictures.parquet` one per picture of the latents that have pictures. The page shows these columns and nothing else,
with numbers rounded to four digits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from amalgam.pipeline.reports.explanation.tables import NamedExplanation
from amalgam.tasks.explain.latents.cards import Nearest, Pictures
from amalgam.tasks.sae.autoencoder import SparseAutoencoder

NUM_CLASSES = 5  # classes whose images activate a latent most
NUM_WRITTEN = 3  # classes that a latent speaks for and against most
DIGITS = 4  # of a number in the page
PICTURED = 500  # latents with pictures


@dataclass(frozen=True)
class Dictionary:
    """Latents of one autoencoder that get cards."""

    name: str
    """`original`, or `tuned` for the autoencoder of the features after fine-tuning."""
    sae: SparseAutoencoder
    explanation: NamedExplanation
    latents: Tensor
    likeness: Tensor | None = None
    """Of new latents, the cosine with the nearest atom of the features before."""

    @property
    def pictured(self) -> list[int]:
        """The latents whose pictures are shown: those that changed most first, then those active in most images."""
        found, own = self.explanation.found, set(self.latents.tolist())
        rates = found.before.firing_rates + found.after.firing_rates
        by_rate = rates.argsort(descending=True, stable=True).tolist()
        ordered = dict.fromkeys([*self.explanation.ranked(), *by_rate])
        return [latent for latent in ordered if latent in own][:PICTURED]


def cards_table(dictionary: Dictionary) -> pa.Table:
    """A row per latent."""
    explanation, alive, likeness = dictionary.explanation, dictionary.latents, dictionary.likeness
    columns: dict[str, Any] = {
        "dictionary": [dictionary.name] * len(alive),
        "likeness": [None] * len(alive) if likeness is None else likeness.tolist(),
        "latent": alive.tolist(),
        "name": [explanation.name(latent) for latent in alive.tolist()],
        "label": [explanation.labels.get(latent) for latent in alive.tolist()],
        "words": [explanation.near_words(latent) for latent in alive.tolist()],
        "shows": [explanation.truth(latent) for latent in alive.tolist()],
        **_activity(explanation, alive),
        **_consequences(explanation, alive),
        **_neighbours("cosine", explanation.cards.by_cosine, alive),
        **_neighbours("cofiring", explanation.cards.by_cofiring, alive),
    }
    texts = pa.list_(pa.string())
    kinds = {"likeness": pa.float64(), "name": pa.string(), "label": pa.string(), "words": texts, "shows": texts}
    return pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})


def _activity(explanation: NamedExplanation, alive: Tensor) -> dict[str, Any]:
    """How often, how strongly, and for what."""
    found, columns = explanation.found, dict[str, Any]()
    tables = {"before": found.before, "after": found.after}
    for side, table in tables.items():
        columns[f"rate_{side}"] = table.firing_rates[alive].tolist()
        rates = table.domain_counts / table.images[1].clamp(min=1)[:, None]
        columns[f"domain_rates_{side}"] = rates.T[alive].tolist()
    of_class = {side: table.class_rates.T[alive] for side, table in tables.items()}
    top = torch.maximum(*of_class.values()).topk(min(NUM_CLASSES, len(explanation.class_names)), dim=1)
    columns["classes"] = _named(top.indices, explanation.class_names)
    columns |= {f"class_rates_{side}": rates.gather(1, top.indices).tolist() for side, rates in of_class.items()}
    histograms = explanation.cards.histograms
    columns["highest"] = histograms.highest[alive].tolist()
    columns |= {f"histogram_{side}": counts[alive].tolist() for side, counts in histograms.counts.items()}
    columns["monosemanticity"] = found.after.monosemanticity[alive].tolist()
    return columns


def _consequences(explanation: NamedExplanation, alive: Tensor) -> dict[str, Any]:
    """What changed, what that did, and for which classes a latent speaks."""
    overall, clamps, columns = explanation.found.changes.overall, explanation.found.clamps, dict[str, Any]()
    for name in ("added_rate", "removed_rate", "effect", "p", "q"):
        columns[name] = getattr(overall, name)[0, alive].tolist()
    columns["restored"] = clamps["before"].restored[alive].long().tolist()
    for target, clamp in clamps.items():
        ends = dict(zip(("", "_low", "_high"), (clamp.accuracy_change, *clamp.interval), strict=True))
        columns |= {f"clamped_to_{target}{end}": values[alive].tolist() for end, values in ends.items()}
    writes = explanation.cards.writes[alive]
    number = max(1, min(NUM_WRITTEN, writes.shape[1] // 2))
    for word, largest in (("for", True), ("against", False)):
        top = writes.topk(number, dim=1, largest=largest)
        columns[f"writes_{word}"] = _named(top.indices, explanation.class_names)
        columns[f"writes_{word}_logit"] = top.values.tolist()
    return columns


def _named(numbers: Tensor, names: Sequence[str]) -> list[list[str]]:
    return np.array(names, dtype=object)[numbers.cpu().numpy()].tolist()


def _neighbours(kind: str, near: Nearest, alive: Tensor) -> dict[str, Any]:
    is_alive = torch.zeros(len(near.latents), dtype=torch.bool).index_fill(0, alive.cpu(), True)
    latents, values = near.latents[alive].cpu(), near.values[alive].cpu()
    kept = (is_alive[latents] & (values > 0)).tolist()
    pairs = list(zip(latents.tolist(), values.tolist(), kept, strict=True))
    return {
        f"near_{kind}": pa.array([[n for n, k in zip(ns, ks, strict=True) if k] for ns, _, ks in pairs], INTEGERS),
        f"near_{kind}_value": pa.array([[v for v, k in zip(vs, ks, strict=True) if k] for _, vs, ks in pairs], FLOATS),
    }


INTEGERS, FLOATS = pa.list_(pa.int64()), pa.list_(pa.float64())


def pictures_table(dictionary: Dictionary, pictures: Pictures, patches: Sequence[Sequence[int]]) -> pa.Table:
    """A row per picture, strongest first; `patches` are the numbers of those that activate the latent, row by row."""
    explanation, images = dictionary.explanation, pictures.images
    seen = explanation.found.seen
    places = [explanation.place(row) for row in images.tolist()]
    said = {"label": seen.labels, "predicted_before": seen.before, "predicted_after": seen.after}
    columns = {
        "dictionary": [dictionary.name] * len(places),
        "latent": pictures.latents.tolist(),
        "quantile": pictures.quantiles.tolist(),
        "domain": [domain for domain, _ in places],
        "image": [position for _, position in places],
        "value_before": pictures.before.tolist(),
        "value_after": pictures.after.tolist(),
        **{name: _named(classes[images], explanation.class_names) for name, classes in said.items()},
        "patches": pa.array(patches, INTEGERS),
    }
    return pa.table(columns)


def page_json(values: Mapping[str, Any]) -> str:
    """Data for a script element: tables column by column, numbers rounded, and nothing that could end the element."""
    text = json.dumps(_rounded(values), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    if isinstance(value, pa.Table):
        return _rounded(value.to_pydict())
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
