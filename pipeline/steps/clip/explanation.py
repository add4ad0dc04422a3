"""Explain what fine-tuning changed in a classifier, on images of several domains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.sources import Source
from amalgam.tasks.explain.vocabulary import Concept, Truth
from amalgam.tasks.scoring.results import STRENGTH, Network


class ExplainConfig(Config):
    """What fine-tuning changed in a classifier, in the latents of an autoencoder."""

    sources: tuple[tuple[str, Source], ...] = Field(min_length=1)
    """Labelled images to look at, by the name of their domain; their classes are those of the classifiers."""
    sae: str | None = None
    """Which of the autoencoders of the folder, by name; None where the folder is one."""
    concepts: tuple[Concept, ...] = ()
    """Words that latents may be named by; without any, latents keep their numbers."""
    truth: Truth | None = None
    """Which words images are known to show: how often names are right is then reported."""
    new_latents: bool | None = None
    """Whether a second autoencoder is trained to find latents that are new; None does for autoencoders up to 4096."""
    name_error: float = Field(default=0.1, gt=0, lt=1)
    """Largest share of the names of latents that may be wrong, as far as names can be judged."""
    top_n: int = Field(default=16, ge=1)
    """Strongest images kept of every latent."""
    identity: Network = Network(kind="classifier", method="fine-tuned")
    """What the results are of: the method that fine-tuned and the seed; its strength is chosen from `strengths`."""
    strengths: tuple[float, ...] = ()
    """Those of the networks `after`, one each; empty of a single network without."""
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Largest drop in validation accuracy (fraction) accepted when choosing a strength, as in the report."""
    title: str = "What fine-tuning changed"
    """Headline of the page."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass; it sets how sums are rounded."""

    @model_validator(mode="after")
    def _names_agree(self) -> "ExplainConfig":
        names = [name for name, _ in self.sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two domains are called {min(twice)!r}: give each its own name")
        words = [concept.word for concept in self.concepts]
        if twice := {word for word in words if words.count(word) > 1}:
            raise ValueError(f"the vocabulary holds {min(twice)!r} twice")
        if self.truth and self.truth.of_domain and len(self.truth.of_domain) != len(names):
            raise ValueError(
                f"the ground truth has words for {len(self.truth.of_domain)} domains, there are {len(names)}"
            )
        return self


def explain(config: ExplainConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `explanation.html`, `explanation.json` and the tables of results, latents, changes and flips.

    Reads the classifiers `before` and `after`, the autoencoders `sae` and, if latents are to be named, the `backbone`.
    Of several networks `after`, it explains the one that the report of the `paths` chooses.
    """
    from amalgam.pipeline.reports.explanation import build
    from amalgam.pipeline.reports.explanation.build import Domain, Material
    from amalgam.pipeline.reports.explanation.request import ExplainRequest
    from amalgam.pipeline.reports.explanation.tables import results_of
    from amalgam.pipeline.store.clip_checkpoints import load_clip, weights_root
    from amalgam.pipeline.store.measures import recorded
    from amalgam.tasks.data.opening import open_source

    if config.concepts and "backbone" not in inputs:
        raise ValueError("words need the text tower: give the backbone as an input, or no concepts")
    clip = load_clip(inputs["backbone"], weights_root(work.data_root)) if config.concepts else None
    domains = tuple(Domain(name, open_source(source, work.data_root)) for name, source in config.sources)
    after, identity = chosen(config, inputs)
    request = ExplainRequest(
        before=inputs["before"],
        after=after,
        sae=inputs["sae"],
        sae_name=config.sae,
        new_latents=config.new_latents,
        name_error=config.name_error,
        top_n=config.top_n,
        batch_size=config.batch_size,
        title=config.title,
        about=about_network(config, identity, bool(inputs.get("paths"))),
        device=work.device,
    )
    material = Material(domains, clip, config.concepts, config.truth)
    return recorded(results_of(build.explain(request, material, work.out), identity), work.out)


def chosen(config: ExplainConfig, inputs: Mapping[str, Any]) -> tuple[Path, Network]:
    """The network to explain, and what it is: the one that the report chooses, by its own table of validation."""
    after, strengths = inputs["after"], config.strengths
    if isinstance(after, Path):
        return after, config.identity
    if len(after) == 1:
        return after[0], config.identity.with_setting(STRENGTH, strengths[0]) if strengths else config.identity
    from amalgam.pipeline.reports.robustness.table import path_frame, robustness_table, row_of
    from amalgam.pipeline.store.tables.results import read_results

    frame = path_frame({folder: read_results(folder) for folder in inputs["paths"]})
    row = row_of(robustness_table(frame, config.tolerance), config.identity.method)
    assert row is not None, "the graph gives paths of the method"
    return after[strengths.index(row["strength"])], config.identity.with_setting(STRENGTH, row["strength"])


def about_network(config: ExplainConfig, identity: Network, is_chosen: bool) -> dict[str, str]:
    """What the head of the page says of the network that the record of its step does not."""
    if identity == ExplainConfig.model_fields["identity"].default:
        return {}
    strength, tried = identity.setting(STRENGTH), ", ".join(f"{strength:g}" for strength in config.strengths)
    by = f" (chosen from {tried} by held-out images of all seeds, as in the report)" if is_chosen else ""
    return {"method": identity.method} | ({} if strength is None else {"strength": f"{strength:g}{by}"})


EXPLANATION = Kind("explanation", explain, ExplainConfig, version=3, expect=Expect(10, 1_000_000))
