"""Explain what fine-tuning changed in a classifier, on images of several domains."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.sources import Source
from amalgam.tasks.explain.vocabulary import Concept, Truth
from amalgam.tasks.scoring.results import Network


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
    top_n: int = Field(default=16, ge=1)
    """Strongest images kept of every latent."""
    identity: Network = Network(kind="classifier", method="fine-tuned")
    """What the results are of: the method that fine-tuned, its strength, the seed."""
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
    request = ExplainRequest(
        before=inputs["before"],
        after=inputs["after"],
        sae=inputs["sae"],
        sae_name=config.sae,
        top_n=config.top_n,
        batch_size=config.batch_size,
        title=config.title,
        device=work.device,
    )
    material = Material(domains, clip, config.concepts, config.truth)
    return recorded(results_of(build.explain(request, material, work.out), config.identity), work.out)


EXPLANATION = Kind("explanation", explain, ExplainConfig, version=2, expect=Expect(10, 1_000_000))
