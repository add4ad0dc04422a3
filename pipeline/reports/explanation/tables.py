"""What an explanation leaves on disk besides its page: Parquet tables and one JSON of everything in short.

`latents.parquet` has a row per latent and model,
`changes.parquet` a row per latent and group of images (all, each class, each domain) in which it changed;
`flips.parquet`, of `pipeline.reports.explanation.flips`, one per changed prediction.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from amalgam.tasks.explain.changes import Changes
from amalgam.tasks.explain.decomposition import NAMES as PARTS
from amalgam.tasks.explain.explanation import Explanation
from amalgam.tasks.explain.flips import KINDS
from amalgam.tasks.explain.latents.cards import Cards
from amalgam.tasks.explain.latents.table import LatentTable
from amalgam.tasks.explain.names import NameAccuracy, Names, name_accuracy
from amalgam.tasks.scoring.results import Network, Result, flat

ALL = "all"
FINE_TUNED = Network(kind="classifier", method="fine-tuned")
DISCOVERY_RATE = 0.05  # share of changes called real that may be chance
LISTED = 50  # latents in the JSON


@dataclass(frozen=True)
class NamedExplanation:
    """An explanation and what its numbers are called."""

    title: str
    class_names: tuple[str, ...]
    domains: tuple[str, ...]
    found: Explanation
    names: Names | None
    """By the images that activate a latent; None without a vocabulary."""
    atom_names: Names | None
    """By its atom, to compare."""
    shown: Tensor | None
    """Which words each latent shows, (num_latents, words); None where nobody knows."""
    cards: Cards
    labels: Mapping[int, str] = field(default_factory=dict)
    """What people called latents."""

    @property
    def judged(self) -> NameAccuracy | None:
        """How often names are right; None where there are no names or no truth."""
        return None if self.names is None or self.shown is None else name_accuracy(self.names, self.shown)

    @property
    def judged_by_atoms(self) -> NameAccuracy | None:
        """The same for names by atoms."""
        return None if self.atom_names is None or self.shown is None else name_accuracy(self.atom_names, self.shown)

    def name(self, latent: int) -> str | None:
        """The word of a latent; None without a vocabulary."""
        return self.names.name(latent) if self.names else None

    def label(self, latent: int) -> str:
        """A latent by number and what people call it, or the word nearest to it."""
        word = self.labels.get(latent) or self.word(latent)
        return str(latent) if word is None else f"{word} ({latent})"

    def word(self, latent: int) -> str | None:
        """The word nearest to a latent, with a question mark if it is too far for a name; None without a vocabulary."""
        if self.names is None:
            return None
        return self.names.words[self.names.best[latent, 0]] + ("" if self.names.named[latent] else "?")

    def near_words(self, latent: int) -> list[str]:
        """The nearest words of a latent with their cosines."""
        if self.names is None:
            return []
        scored = zip(self.names.best[latent].tolist(), self.names.scores[latent].tolist(), strict=True)
        return [f"{self.names.words[word]} {score:.2f}" for word, score in scored]

    def truth(self, latent: int) -> list[str]:
        """The words that a latent shows."""
        if self.shown is None or self.names is None:
            return []
        return [word for word, yes in zip(self.names.words, self.shown[latent].tolist(), strict=True) if yes]

    def place(self, row: int) -> tuple[str, int]:
        """Domain and position there of an image, from its number in the stream."""
        for domain, number in zip(self.domains, self.found.num_images.long().tolist(), strict=True):
            if row < number:
                return domain, row
            row -= number
        raise AssertionError("a row beyond the last image")

    def ranked(self) -> list[int]:
        """Latents that changed: first those that would give most predictions back, then by their effect on logits."""
        moved = self.found.changes.overall.effect[0].abs()
        by_effect = moved.argsort(descending=True, stable=True)[: int((moved > 0).sum())]
        restored = self.found.clamps["before"].restored[by_effect]
        return by_effect[restored.argsort(descending=True, stable=True)].tolist()


def results_of(explanation: NamedExplanation, network: Network) -> list[Result]:
    """The headline as rows, over all images; accuracies and shares of the change also domain by domain."""
    found = explanation.found
    by_place = [("accuracy", piece, values) for piece, values in found.accuracies.items()]
    by_place += [("share", part, found.shares.share(part)) for part in PARTS]
    overall: list[tuple[str, str, float | None]] = [(role, name, v[-1].item()) for role, name, v in by_place]
    overall += [("flips", kind, number) for kind, number in zip(KINDS, found.flips.numbers.tolist(), strict=True)]
    overall += [("latents", "changed", num_changed(explanation)), ("share", "fit", found.shares.fit[-1].item())]
    overall += [("flips", "explained", found.flips.explained_share), ("flips", "alone", found.flips.alone_share)]
    for role, judged in (("names", explanation.judged), ("atom_names", explanation.judged_by_atoms)):
        if judged is not None:
            overall += [(role, name, value) for name, value in asdict(judged).items()]
            overall.append((role, "accuracy", judged.accuracy))
    of_domains = [
        Result(network, role, domain, f"{role}_{name}", value)
        for role, name, values in by_place
        for domain, value in zip(explanation.domains, values.tolist(), strict=False)
    ]
    rows = [(role, name, float(value)) for role, name, value in overall if value is not None]
    return [Result(network, role, None, name, value) for role, name, value in rows] + of_domains


def num_changed(explanation: NamedExplanation) -> int:
    """Latents that are active in more, or in fewer, images than chance would have it."""
    return int((explanation.found.changes.overall.q < DISCOVERY_RATE).sum())


def write_tables(explanation: NamedExplanation, folder: Path, latents_of: Mapping[str, str]) -> None:
    """Write `latents.parquet`, `changes.parquet` and `explanation.json`.

    Both tables say in their metadata whose latents they number: `latents_of` has backbone and autoencoder.
    """
    found = explanation.found
    models = [
        pa.table(_latents(explanation, model, table))
        for model, table in (("before", found.before), ("after", found.after))
    ]
    for name, parts in (("latents", models), ("changes", _changes(explanation))):
        write_table(pa.concat_tables(parts).replace_schema_metadata(dict(latents_of)), folder / f"{name}.parquet")
    (folder / "explanation.json").write_text(json.dumps(_in_short(explanation), indent=1) + "\n")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table with checksums."""
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _latents(explanation: NamedExplanation, model: str, table: LatentTable) -> dict[str, Any]:
    number = len(table.means)
    places = [[explanation.place(row) for row in rows if row >= 0] for rows in table.top_rows.tolist()]
    values = [kept[: len(place)] for kept, place in zip(table.top_values.tolist(), places, strict=True)]
    rates = table.class_rates.T.float().cpu().contiguous()
    columns = {
        "latent": list(range(number)),
        "model": [model] * number,
        "firing_rate": table.firing_rates.tolist(),
        "mean_when_active": table.means.tolist(),
        "label_entropy": table.label_entropy.tolist(),
        "domain_entropy": table.domain_entropy.tolist(),
        "monosemanticity": table.monosemanticity.tolist(),
        "top_domains": [[domain for domain, _ in place] for place in places],
        "top_ids": pa.array([[position for _, position in place] for place in places], pa.list_(pa.int64())),
        "top_activations": pa.array(values, pa.list_(pa.float64())),
        "class_firing_rates": pa.FixedSizeListArray.from_arrays(pa.array(rates.flatten().numpy()), rates.shape[1]),
    }
    if explanation.names is not None:
        names = explanation.names
        columns["name"] = [explanation.name(latent) for latent in range(number)]
        columns["nearest_words"] = [[names.words[word] for word in best] for best in names.best.tolist()]
        columns["word_scores"] = names.scores.tolist()
    if explanation.shown is not None:
        columns["shows"] = pa.array([explanation.truth(latent) for latent in range(number)], pa.list_(pa.string()))
    return columns


def _changes(explanation: NamedExplanation) -> Iterator[pa.Table]:
    table, clamps = explanation.found.changes, explanation.found.clamps
    scopes: Sequence[tuple[str, Sequence[str], Changes]] = (
        (ALL, (ALL,), table.overall),
        ("class", explanation.class_names, table.by_class),
        ("domain", explanation.domains, table.by_domain),
    )
    for scope, groups, changes in scopes:
        changed = (changes.added + changes.removed > 0) | (changes.mean_change != 0)
        rows, latents = changed.nonzero().cpu().unbind(1)
        columns: dict[str, Any] = {
            "latent": latents.numpy(),
            "scope": [scope] * len(rows),
            "group": [groups[row] for row in rows.tolist()],
            "images": changes.images.cpu().long()[rows].numpy(),
            "added": changes.added.cpu().long()[rows, latents].numpy(),
            "removed": changes.removed.cpu().long()[rows, latents].numpy(),
        }
        for name in ("added_rate", "removed_rate", "mean_change", "effect", "p", "q"):
            columns[name] = getattr(changes, name).cpu()[rows, latents].numpy()
        for target, clamp in clamps.items():
            for name, values in (
                ("accuracy_change", clamp.accuracy_change),
                ("p", clamp.p),
                ("restored", clamp.restored),
            ):
                overall_only = values.cpu()[latents].numpy() if scope == ALL else pa.nulls(len(rows), pa.float64())
                columns[f"clamped_to_{target}_{name}"] = overall_only
        yield pa.table(columns)


def _in_short(explanation: NamedExplanation) -> dict[str, Any]:
    found, overall = explanation.found, explanation.found.changes.overall

    def by_place(values: Tensor) -> dict[str, float]:
        return dict(zip((*explanation.domains, ALL), values.tolist(), strict=True))

    return {
        "title": explanation.title,
        "images": dict(zip(explanation.domains, found.num_images.long().tolist(), strict=True)),
        "summary": flat(row for row in results_of(explanation, FINE_TUNED) if row.test_set is None),
        "accuracy": {piece: by_place(values) for piece, values in found.accuracies.items()},
        "true_class_logit": {
            "change": by_place(found.shares.change),
            "mean": {part: by_place(found.shares.mean[part]) for part in PARTS},
            "share": {part: by_place(found.shares.share(part)) for part in PARTS},
        },
        "fvu": {
            domain: {"before": before, "after": after}
            for domain, (before, after) in zip(explanation.domains, found.fvu.tolist(), strict=True)
        },
        "flips": [asdict(group) | {"name": explanation.name(group.latent)} for group in found.flips.groups[:LISTED]],
        "changes": [
            {
                "latent": latent,
                "name": explanation.name(latent),
                "shows": explanation.truth(latent),
                "added": int(overall.added[0, latent]),
                "removed": int(overall.removed[0, latent]),
                "effect": overall.effect[0, latent].item(),
                "accuracy_change_if_set_back": found.clamps["before"].accuracy_change[latent].item(),
                "restored_if_set_back": int(found.clamps["before"].restored[latent]),
            }
            for latent in explanation.ranked()[:LISTED]
        ],
        "names": None if explanation.judged is None else asdict(explanation.judged),
        "atom_names": None if explanation.judged_by_atoms is None else asdict(explanation.judged_by_atoms),
    }
