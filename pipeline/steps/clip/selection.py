"""Select latents by rules (names, a table, what they tell apart), for fine-tuning to forbid or to keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.saes import SAES, ChosenSAE
from amalgam.tasks.data.sources import Source
from amalgam.tasks.explain.vocabulary import Concept
from amalgam.tasks.user_names import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.clip.zero_shot import Classifier
    from amalgam.tasks.explain.names import Names

SELECTION = "selection.json"
Rule = Literal["forbid", "keep"]
Group = Literal["domains", "shortcuts", "added"]


class Rules(Config):
    """Which latents must not come and which must not go."""

    forbid: tuple[str, ...] = ()
    """Words of latents whose activations must not grow."""
    keep: tuple[str, ...] = ()
    """Words of latents whose activations must not shrink."""
    if_carried: bool = False
    """Whether words that no latent carries are passed over; otherwise they are refused."""
    concepts: tuple[Concept, ...] = ()
    """The vocabulary that latents are named by; it has all of those words."""
    task: tuple[str, ...] = ()
    """Words of the task's own latents, which stay free: they cannot be forbidden, and groups leave them out."""
    table: tuple[tuple[NonNegativeInt, Rule], ...] = ()
    """Latents by number."""
    weights: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = ()
    """Weights of latents of the table, where they are not 1."""
    table_of: tuple[str, str] | None = None
    """Backbone and key of the autoencoder whose latents the table numbers, where it says so."""
    groups: tuple[Group, ...] = ()
    """Forbidden too: latents that tell the domains of unlabelled images apart, that predict labels in the labelled
    images alone, or that plain fine-tuning adds to those."""
    rate: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate of groups."""

    @model_validator(mode="after")
    def _rules_agree(self) -> Rules:
        if not (self.forbid or self.keep or self.table or self.groups):
            raise ValueError("nothing is selected: give names (--forbid, --keep), a table, or a group")
        if both := sorted(set(self.forbid) & set(self.keep)):
            raise ValueError(f"{both[0]!r} is both forbidden and kept: choose one")
        rules = dict[int, str]()
        for latent, rule in self.table:
            if rules.setdefault(latent, rule) != rule:
                raise ValueError(f"latent {latent} is both forbidden and kept: choose one")
        if own := [word for word in self.forbid if word in self.task]:
            raise ValueError(f"{own[0]!r} is what the task is about, whose latents stay free: forbid something else")
        known = [concept.word for concept in self.concepts]
        if unknown := [word for word in (*self.forbid, *self.keep) if word not in known]:
            raise unknown_name("word for latents", unknown[0], known)
        return self


class SelectionConfig(Config):
    """Latents of one autoencoder, selected by rules."""

    rules: Rules
    sae: ChosenSAE
    labelled: Source | None = None
    """Images that plain fine-tuning is looked at on, for latents that it adds."""


@dataclass(frozen=True)
class Selected:
    """Numbers of latents."""

    forbid: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    weights: tuple[tuple[int, float], ...] = ()


def select(config: SelectionConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `selection.json`: the latents, and what each is called.

    Reads the frozen `classifier`, the `saes`, the clean `features` of labelled images and those of unlabelled `others`,
    and the `backbone`, which names latents.
    """
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about, sae_key

    rules, about = config.rules, read_about(inputs["classifier"])
    key = sae_key(inputs["saes"] / config.sae.name)
    if rules.table_of and rules.table_of != (about.backbone, key):
        raise ValueError(
            f"the table numbers latents of autoencoder {rules.table_of[1]} on backbone {rules.table_of[0]}, these are "
            f"of {key} on {about.backbone}: explain a network of this run"
        )
    classifier = load_classifier(inputs["classifier"])
    seen = {role: _seen(config, inputs, role, classifier, about.backbone) for role in ("features", "others")}
    named = _names(rules, inputs, seen["features"] + seen["others"], work)
    found = {rule: {latent for latent, of in rules.table if of == rule} for rule in ("forbid", "keep")}
    automatic = _grouped(rules, seen) | _added(config, inputs, seen["features"], work)
    found["forbid"] |= set(named.of(rules.forbid, not rules.if_carried)) | automatic - set(named.of(rules.task, False))
    found["keep"] |= set(named.of(rules.keep, not rules.if_carried))
    if both := sorted(found["forbid"] & found["keep"]):
        raise ValueError(f"latent {both[0]} is both forbidden and kept: choose one")
    if not found["forbid"] | found["keep"]:
        raise ValueError("no latent fits the rules: forbid or keep something else")
    chosen = {rule: sorted(latents) for rule, latents in found.items()}
    words = {rule: [named.name(latent) for latent in latents] for rule, latents in chosen.items()}
    (work.out / SELECTION).write_text(json.dumps(chosen | {"names": words, "weights": rules.weights}, indent=1) + "\n")
    return {rule: float(len(latents)) for rule, latents in chosen.items()}


@dataclass(frozen=True)
class _Seen:
    """Images as the frozen encoder and the autoencoder see them."""

    features: Tensor
    activations: Tensor
    labels: Tensor
    domains: Tensor


def _seen(
    config: SelectionConfig, inputs: Mapping[str, Any], role: str, classifier: Classifier, backbone: str
) -> list[_Seen]:
    """The images of a role, none if it is not an input; labels of unlabelled ones are what zero-shot says."""
    import torch

    from amalgam.pipeline.store.tables.features import as_wanted, read_features

    if not inputs.get(role):
        return []
    table = read_features(inputs[role], backbone=backbone)
    sae = SAES.read(inputs["saes"], config.sae, table.features.shape[1], backbone)
    with torch.no_grad():
        parts = table.features.split(4096)
        codes = torch.cat([sae.sparse(sae.pre_activations(as_wanted(part, sae.info))).dense() for part in parts])
        guessed = torch.cat([classifier.head(part.float()).argmax(1) for part in parts])
    labels = table.labels if role == "features" else guessed
    return [_Seen(as_wanted(table.features, sae.info), codes, labels, table.domain_codes)]


def _grouped(rules: Rules, seen: Mapping[str, Sequence[_Seen]]) -> set[int]:
    from amalgam.tasks.explain.groups import of_domains, of_one_set

    if not set(rules.groups) - {"added"}:
        return set()
    if not seen["others"]:
        raise ValueError("groups of latents need unlabelled images of several domains: give --anchor-data")
    (here,), (there,) = seen["features"], seen["others"]
    by_group = {
        "domains": lambda: of_domains(there.activations != 0, there.domains, there.labels, rules.rate),
        "shortcuts": lambda: of_one_set(
            here.activations != 0, here.labels, there.activations != 0, there.labels, rules.rate
        ),
    }
    return {latent for group in rules.groups if group != "added" for latent in by_group[group]()}


def _added(config: SelectionConfig, inputs: Mapping[str, Any], seen: Sequence[_Seen], work: Workspace) -> set[int]:
    import torch

    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.pipeline.store.tables.features import as_wanted
    from amalgam.tasks.data.loading import batches
    from amalgam.tasks.data.opening import open_source
    from amalgam.tasks.explain.groups import added

    if "added" not in config.rules.groups:
        return set()
    assert config.labelled is not None, "the experiment gives it with the rule"
    images, encoder = open_source(config.labelled, work.data_root), load_classifier(inputs["after"]).encoder
    sae = SAES.read(inputs["saes"], config.sae, seen[0].features.shape[1], read_about(inputs["classifier"]).backbone)
    encoder, sae, everyone = encoder.to(work.device), sae.to(work.device), range(len(images))
    with torch.no_grad():
        parts = (encoder(batch.images) for batch in batches(images, everyone, 512, device=work.device))
        codes = [(sae.sparse(sae.pre_activations(as_wanted(part, sae.info))).dense() != 0).cpu() for part in parts]
    return set(added(seen[0].activations != 0, torch.cat(codes), config.rules.rate))


@dataclass(frozen=True)
class _Named:
    """Latents by their names."""

    names: Names | None = None

    def of(self, words: Sequence[str], all_known: bool = True) -> tuple[int, ...]:
        """Those called by some words; of unknown ones none, or ValueError."""
        from amalgam.tasks.explain.groups import named_latents

        if self.names is None or not words:
            return ()
        carried = {self.names.name(latent) for latent in range(len(self.names.best))}
        return named_latents(self.names, words if all_known else [word for word in words if word in carried])

    def name(self, latent: int) -> str:
        return self.names.name(latent) if self.names else "unnamed"


def _names(rules: Rules, inputs: Mapping[str, Any], seen: Sequence[_Seen], work: Workspace) -> _Named:
    import torch

    from amalgam.pipeline.store.clip_checkpoints import load_clip, weights_root
    from amalgam.tasks.explain.groups import directions
    from amalgam.tasks.explain.names import embed, name_latents

    if not rules.concepts:
        return _Named()
    texts = embed(load_clip(inputs["backbone"], weights_root(work.data_root)), rules.concepts)
    features, activations = (torch.cat([getattr(one, name) for one in seen]) for name in ("features", "activations"))
    words = [concept.word for concept in rules.concepts]
    alive, generator = (activations != 0).any(0), torch.Generator().manual_seed(0)
    return _Named(name_latents(directions(features, activations), texts, words, alive, generator))


def read_selection(folder: Path | None) -> Selected | None:
    """The numbers; None without a folder."""
    if folder is None:
        return None
    content = json.loads((folder / SELECTION).read_text())
    weights = tuple((latent, weight) for latent, weight in content["weights"])
    return Selected(tuple(content["forbid"]), tuple(content["keep"]), weights)


SELECTED = Kind("selected", select, SelectionConfig, expect=Expect(5, 10_000), read=read_selection)
