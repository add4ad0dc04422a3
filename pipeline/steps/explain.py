"""Explain what fine-tuning changed in a classifier, on images of several domains."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.explanation import build
from amalgam.pipeline.reports.explanation.build import Looked, Request
from amalgam.pipeline.reports.explanation.tables import summary
from amalgam.pipeline.steps.backbones import weights_root
from amalgam.pipeline.steps.explain_config import ExplainConfig
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.store.clip_checkpoints import load_clip
from amalgam.tasks.data.opening import open_source


def explain(config: ExplainConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `explanation.html`, `explanation.json` and the tables of latents, changes and flips.

    Reads the classifiers `before` and `after`, the autoencoders `sae` and, if latents are to be named, the `backbone`.
    """
    if config.concepts and "backbone" not in inputs:
        raise ValueError("words need the text tower: give the backbone as an input, or no concepts")
    clip = load_clip(inputs["backbone"], weights_root(work.data_root)) if config.concepts else None
    looked = tuple(Looked(domain, open_source(source, work.data_root)) for domain, source in config.sources)
    request = Request(
        inputs["before"], inputs["after"], inputs["sae"], config.sae, looked, clip, config.concepts, config.truth,
        config.top_n, config.batch_size, config.title, work.device,
    )  # fmt: skip
    return {**summary(build.explain(request, work.out))}
