"""Fine-tune the encoder of a base on one task, behind a head that is fitted on the base's features and fixed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from amalgam.tasks.merging.multitask.data import TaskData
    from amalgam.tasks.models.spec import ModelSpec


class TaskConfig(Config):
    """One task, and how the base is fine-tuned on it."""

    task: TaskSpec
    training: TrainConfig
    validation_share: float = Field(gt=0, lt=1)
    """Share of the task's training images held out to choose epochs and merges by."""
    seed: int
    """Draws the share held out, the order of images and the augmentation."""


def headed_base(config: TaskConfig, base: Path, work: Workspace) -> "tuple[nn.Module, ModelSpec, TaskData]":
    """The base behind the task's head, fixed, how that network is built, and the task's images."""
    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.tasks.merging.multitask.data import headed, task_data
    from amalgam.tasks.models import build

    spec = read_spec(base)
    parts = task_data(config.task, spec.in_shape, config.validation_share, config.seed, work.data_root)
    spec = spec.model_copy(update={"num_classes": len(parts.train.class_names)})
    return headed(load_model(base), build(spec, seed=0), parts), spec, parts


def finetune_task(config: TaskConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Save the network with the task's head; the summary compares it with the base behind the same head."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.checkpoints import save_model, save_pictures
    from amalgam.tasks.merging.multitask.data import accuracy
    from amalgam.tasks.training.loop import train

    start, spec, parts = headed_base(config, inputs["base"], work)
    before = accuracy(start, parts.test, device=work.device)
    trained = train(
        start,
        parts.train,
        parts.pool,
        parts.validation,
        config.training,
        config.seed,
        log=work.log,
        device=work.device,
        resume=resume_state(work),
        save=saver(work),
    )
    save_model(trained.module, spec, work.out)
    save_pictures(parts.test, work.out)
    return {
        "best_epoch": trained.best_epoch,
        "test/accuracy": accuracy(trained.module, parts.test, device=work.device),
        "base/accuracy": before,
        "data_fingerprint": parts.train.fingerprint,
    }


TASK = Kind("task", finetune_task, TaskConfig, expect=Expect(20, 1_000_000))
