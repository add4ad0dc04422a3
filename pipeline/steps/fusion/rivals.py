"""What a fused network must be better than: networks of one member's size that were made otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.splits import ProbeConfig
from amalgam.tasks.fusion.methods import Target
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.scoring.results import Network, target_setting
from amalgam.tasks.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

RivalName = Literal["distilled", "distilled from fused", "from scratch"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)


class RivalConfig(Config):
    """One rival, evaluated on the test split."""

    rival: RivalName
    """Distilled from the ensemble on the probe, starting anew or from a fused network; or trained on all labels."""
    model: ModelSpec
    probe: ProbeConfig
    """The unlabelled images that fused networks are fitted on; the rival from scratch sees all labelled ones."""
    weights: tuple[float, ...]
    """One per member of the ensemble."""
    training: TrainConfig
    target: Target = "logits"
    """Which mean of the members a distilled network approaches."""
    seed: int
    """Draws initial weights, order and augmentation."""

    @property
    def identity(self) -> Network:
        """What is evaluated, for the table of results."""
        settings = target_setting("logits" if self.rival == "from scratch" else self.target)
        return Network(
            kind="rival", method=self.rival, settings=settings, weights=self.weights, seed=self.probe.sample.seed
        )


def train_rival(config: RivalConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train the rival, its best epoch chosen on labelled validation images, and evaluate it on the test split."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.steps.fusion.evaluated import evaluated
    from amalgam.pipeline.store.checkpoints import load_model, save_model
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.models import build
    from amalgam.tasks.training.distillation import Distillation
    from amalgam.tasks.training.loop import train

    images, pool, validation = open_pool(config.probe.sample, work.data_root)
    start: nn.Module = build(config.model, config.seed)
    if config.rival == "distilled from fused":
        start = load_model(inputs["fused"]).to(work.device)
    objective, indices = None, pool
    if config.rival != "from scratch":
        indices = config.probe.indices(pool)
        objective = Distillation(
            [load_model(f).to(work.device) for f in inputs["members"]], config.weights, config.target
        )
    trained = train(
        start,
        images,
        indices,
        validation,
        config.training,
        config.seed,
        objective=objective,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    ).module
    save_model(trained, config.model, work.out)
    return evaluated(config.identity, trained, config.probe.sample.data, {}, work)


RIVAL = Kind("rival", train_rival, RivalConfig, version=1, expect=Expect(10, 1_000_000))
