"""Fuse matched members, and fine-tune what was fused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.fusion.evaluated import evaluated
from amalgam.pipeline.steps.fusion.members import EvaluationConfig
from amalgam.tasks.data.splits import ProbeConfig, SampleConfig, hold_out
from amalgam.tasks.fusion import Method
from amalgam.tasks.fusion.methods import Target
from amalgam.tasks.scoring.results import Network, settings_of, target_setting
from amalgam.tasks.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.tracing.axes import Axes

CALIBRATION_BATCH = 256  # images; batch norm averages the variances of batches, so they should not be small


class FusedConfig(Config):
    """One fused network, evaluated on the test split."""

    method: SerializeAsAny[Method]
    weights: tuple[float, ...]
    """One per member; they sum to 1."""
    probe: ProbeConfig
    recalibrated: bool = False
    """Whether batch norms are recalibrated (or, without batch norm, layers repaired) on the probe."""
    refitted: bool = False
    """Whether layers are fitted to the ensemble on the probe instead."""
    target: Target = "logits"
    """Which mean of the members a refitted network approaches."""

    @model_validator(mode="after")
    def _one_treatment(self) -> FusedConfig:
        if self.recalibrated and self.refitted:
            raise ValueError("a fused network is recalibrated or refitted, not both")
        return self

    @property
    def identity(self) -> Network:
        """What is evaluated, for the table of results."""
        return Network(
            kind="fused",
            method=type(self.method).__name__,
            settings=settings_of(self.method) | target_setting(self.target if self.refitted else "logits"),
            weights=self.weights,
            recalibrated=self.recalibrated,
            refitted=self.refitted,
            seed=self.probe.sample.seed,
        )


class FinetunedConfig(Config):
    """A member or a fused network trained a little more, its structural zeros kept."""

    network: EvaluationConfig | FusedConfig
    """What it is."""
    sample: SampleConfig
    share: float = Field(gt=0, lt=1)
    """Share of the images that members may be trained on, with labels, that it is fine-tuned on."""
    training: TrainConfig
    seed: int
    """Draws those images, their order and their augmentation."""

    @property
    def identity(self) -> Network:
        """What is evaluated, for the table of results."""
        return self.network.identity.model_copy(update={"finetuned": True})


def fuse_members(config: FusedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Fuse the members as one method matched them, save the network, and evaluate it on the test split."""
    from amalgam.pipeline.store.checkpoints import read_spec, save_model, save_nonzeros
    from amalgam.tasks.data.loading import Repeatable
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.fusion import Refit, merge, support
    from amalgam.tasks.fusion.fusing import calibrated, checked_weights
    from amalgam.tasks.fusion.structured import structured

    train_images, pool, _ = open_pool(config.probe.sample, work.data_root)
    members, axes, couplings = _matched(config, inputs, work.device)
    weights = checked_weights(config.weights, len(members))
    fused = merge(members, axes, couplings, weights)
    probe = Repeatable(train_images, config.probe.indices(pool), CALIBRATION_BATCH, work.device)
    if config.refitted or config.recalibrated:
        how = Refit(head=config.target) if config.refitted else None
        fused = calibrated(fused, members, axes, couplings, weights, probe, how)
    allowed = support(axes, couplings, fused)
    save_model(fused, read_spec(inputs["members"][0]), work.out)
    save_nonzeros(allowed, work.out)
    blocks = structured(fused, axes, couplings)
    return evaluated(config.identity, fused, config.probe.sample.data, allowed, work, executed=blocks)


def finetune(config: FinetunedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train a network on a few labelled images, structural zeros kept, and evaluate it on the test split.

    It reads the network alone: a fused one brings its structural zeros. After a retry, go on from the last finished
    epoch.
    """
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.checkpoints import load_model, read_nonzeros, read_spec, save_model
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.training.loop import train

    images, pool, validation = open_pool(config.sample, work.data_root)
    network = load_model(inputs["network"]).to(work.device)
    allowed = read_nonzeros(inputs["network"])
    _, chosen = hold_out(images.labels.numpy()[pool], config.share, config.seed)
    tuned = train(
        network,
        images,
        pool[chosen],
        validation,
        config.training,
        config.seed,
        log=work.log,
        support=allowed,
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    ).module
    save_model(tuned, read_spec(inputs["network"]), work.out)
    return evaluated(config.identity, tuned, config.sample.data, allowed, work)


def _matched(
    config: FusedConfig, inputs: Mapping[str, Any], device: str
) -> tuple[list[nn.Module], Axes, dict[str, Coupling]]:
    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.matchings import load_matching

    # Matching has checked that the members are finite and of one architecture.
    members = [load_model(folder).to(device) for folder in inputs["members"]]
    return members, _axes(inputs["members"][0], device), load_matching(config.method, inputs["matching"]).couplings()


@lru_cache(maxsize=1)
def _axes(member: Path, device: str) -> Axes:
    """The axes of a member, traced once by a process however many networks of a sweep are fused of it."""
    import torch

    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.tasks.tracing.trace import trace

    x = torch.zeros(2, *read_spec(member).in_shape, device=device)
    return trace(load_model(member).to(device), x)


FUSED = Kind("fused", fuse_members, FusedConfig, version=4, expect=Expect(2, 1_000_000))
FINETUNED = Kind("finetuned", finetune, FinetunedConfig, version=3, expect=Expect(5, 1_000_000))
