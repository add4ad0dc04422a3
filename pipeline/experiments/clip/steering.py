"""The flags that say which latents may come, go, or must stay in fine-tuning by the method `selective`."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

from amalgam.pipeline.experiments.clip.variants import VARIANTS, Variant
from amalgam.pipeline.experiments.flags import Texts
from amalgam.pipeline.steps.clip.selection import Group, Rule, Rules
from amalgam.tasks.data.layouts import read_table
from amalgam.tasks.explain.vocabulary import Concept, concepts_of
from amalgam.tasks.user_names import unknown_name

METHOD = "selective"
LEVEL = 0.05  # false discovery rate of added latents


@dataclass(frozen=True)
class Steering:
    """What `selective` forbids and keeps."""

    forbid: Annotated[Texts, 'Names of latents that must not grow in fine-tuning: "stripes,plain background".'] = ()
    keep: Annotated[Texts, "Names of latents that must not shrink."] = ()
    forbid_from: Annotated[
        str | None, "changes.parquet of an explanation: the latents that fine-tuning added there must not come."
    ] = None
    latent_table: Annotated[
        str | None, "CSV file with columns latent, rule (forbid or keep) and, if wanted, weight."
    ] = None
    forbid_groups: Annotated[
        Texts,
        "Latents found: domains (of unlabelled images), shortcuts (predict labels here only), added (by ft).",
    ] = ()

    words: Annotated[Texts, "Other words that latents may be named by, so that names are compared."] = ()

    def named(self, classes: tuple[str, ...], templates: str | tuple[str, ...]) -> Rules | None:
        """The requested rules, in a vocabulary of the classes and the words given; without those, of the names."""
        words = dict.fromkeys((*classes, *(self.words or (*self.forbid, *self.keep))))
        return self.rules(concepts_of(words, templates) if self.forbid or self.keep else (), classes)

    def rules(self, concepts: tuple[Concept, ...], task: tuple[str, ...]) -> Rules | None:
        """The requested rules; None if there are none. Raises ValueError for unknown names, with near ones."""
        if not (self.forbid or self.keep or self.forbid_from or self.latent_table or self.forbid_groups):
            return None
        for group in self.forbid_groups:
            if group not in get_args(Group):
                raise unknown_name("group of latents", group, get_args(Group))
        table, weights, origin = *_table(self.latent_table), None
        if self.forbid_from:
            added, origin = added_latents(Path(self.forbid_from))
            table += tuple((latent, "forbid") for latent in added)
        return Rules(
            forbid=tuple(word.strip() for word in self.forbid),
            keep=tuple(word.strip() for word in self.keep),
            concepts=concepts,
            task=task,
            table=table,
            weights=weights,
            table_of=origin,
            groups=self.forbid_groups,
        )


def steered(methods: tuple[str, ...], rules: Rules | None) -> tuple[tuple[str, ...], Mapping[str, Variant]]:
    """Methods, `selective` among them if there are rules, and all variants, `selective` with its rules.

    Raises ValueError if it is to be tried without rules.
    """
    if rules is None:
        if METHOD in methods:
            raise ValueError(f"{METHOD} selects nothing: give --forbid, --keep, --forbid-from or --latent-table")
        return methods, VARIANTS
    chosen = methods if METHOD in methods else (*methods, METHOD)
    return chosen, {**VARIANTS, METHOD: replace(VARIANTS[METHOD], rules=rules)}


def added_latents(path: Path) -> tuple[tuple[int, ...], tuple[str, str] | None]:
    """The latents that fine-tuning added, of an explanation's `changes.parquet`, and whose they are.

    They became active in more images than they left, beyond chance. Raises ValueError for another kind of file.
    """
    import pyarrow.parquet as pq

    file = path / "changes.parquet" if path.is_dir() else path
    try:
        table = pq.read_table(file)
        rows = table.select(["latent", "scope", "added", "removed", "q"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} must be the changes.parquet of an explanation: {error}") from error
    added = {r["latent"] for r in rows if r["scope"] == "all" and r["added"] > r["removed"] and r["q"] <= LEVEL}
    if not added:
        raise ValueError(f"{file} has no latent that fine-tuning added: nothing can be forbidden from it")
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    origin = (facts["backbone"], facts["autoencoder"]) if {"backbone", "autoencoder"} <= facts.keys() else None
    return tuple(sorted(added)), origin


def _table(path: str | None) -> tuple[tuple[tuple[int, Rule], ...], tuple[tuple[int, float], ...]]:
    """Rules and weights of the latents in a file."""
    if path is None:
        return (), ()
    try:
        rows = read_table(Path(path), ("latent", "rule"))
        weighted = [(int(row["latent"]), float(row["weight"])) for row in rows if row.get("weight")]
        return tuple((int(row["latent"]), _rule(row["rule"])) for row in rows), tuple(weighted)
    except (OSError, csv.Error, ValueError) as error:
        raise ValueError(f"{path} must be a table with the columns latent, rule: {error}") from error


def _rule(text: str) -> Rule:
    rules: dict[str, Rule] = {"forbid": "forbid", "keep": "keep"}
    if text.strip() not in rules:
        raise unknown_name("rule", text, rules)
    return rules[text.strip()]
