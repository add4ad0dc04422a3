"""Train one member; evaluate members and their ensembles."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics, Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.canonical import without_classes
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import SPLITS, SampleConfig, Split
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.scoring.results import Network, NetworkKind
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import is_in_file

EvaluationKind = Literal["member", "logit ensemble", "probability ensemble"]


class MemberConfig(Config):
    """One member of an ensemble."""

    sample: SampleConfig
    model: ModelSpec
    split: SerializeAsAny[Split]
    training: TrainConfig
    num_members: int = Field(ge=1)
    member: int = Field(ge=0)
    """Which of the members this is, from 0."""
    seed: int
    """Draws the initial weights, the order of images and the augmentation."""


class EvaluationConfig(Config):
    """A network, or an ensemble of members, on the test split."""

    data: DataSpec
    seed: int
    """The sample its members come from: what is averaged over in reports."""
    member: int | None = None
    weights: tuple[float, ...] = ()
    """One per member of an ensemble; empty for a single network."""
    kind: EvaluationKind = "member"
    name: str | None = None
    """What reports call it; None: its kind."""

    @property
    def identity(self) -> Network:
        """What is evaluated, for the table of results."""
        kind: NetworkKind = "member" if self.kind == "member" else "ensemble"
        return Network(
            kind=kind, method=self.name or self.kind, weights=self.weights, member=self.member, seed=self.seed
        )


def train_member(config: MemberConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train the member and keep its best epoch; after a retry, go on from the last finished epoch."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.checkpoints import save_model, save_pictures
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.models import build
    from amalgam.tasks.training.loop import train

    if config.member >= config.num_members:
        raise ValueError(f"member must be below {config.num_members}, got {config.member}")
    images, pool, validation = open_pool(config.sample, work.data_root)
    shares = config.split(images.labels.numpy()[pool], config.num_members, config.sample.seed)
    trained = train(
        build(config.model, config.seed),
        images,
        pool[shares[config.member]],
        validation,
        config.training,
        config.seed,
        log=work.log,
        device=work.device,
        resume=resume_state(work),
        save=saver(work),
    )
    save_model(trained.module, config.model, work.out)
    save_pictures(images, work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def evaluate(config: EvaluationConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """One network, or several as an ensemble, on the test split; the ensemble costs what its members cost together."""
    from functools import reduce
    from operator import add

    import numpy as np

    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.measures import tested
    from amalgam.tasks.data.images import load
    from amalgam.tasks.data.loading import example
    from amalgam.tasks.scoring.logits import logit_ensemble, predict, probability_ensemble
    from amalgam.tasks.tracing.cost import cost_of

    images = load(config.data, "test", work.data_root)
    members = [load_model(folder).to(work.device) for folder in inputs["members"]]
    logits = [predict(member, images, np.arange(len(images)), device=work.device) for member in members]
    combine = {"member": lambda ls, ws: ls[0], "logit ensemble": logit_ensemble}.get(config.kind, probability_ensemble)
    cost = reduce(add, (cost_of(member, example(images, work.device)) for member in members))
    return tested(config.identity, combine(logits, config.weights or None), images, cost, work.out)


def check_pictures(config: MemberConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the images divide among members and, in both splits, fit a network that can be made."""
    from amalgam.tasks.data.opening import check_content, open_pool
    from amalgam.tasks.models import build

    if is_in_file(config.model.name):
        build(config.model, config.seed)
    check_content(config.sample.data, "test", data_root)
    images, pool, _ = open_pool(config.sample, data_root)
    config.split(images.labels.numpy()[pool], config.num_members, config.sample.seed)
    if images.shape != config.model.in_shape:
        raise ValueError(
            f"images of {_by(images.shape)} do not fit a network for {_by(config.model.in_shape)}: give --channels "
            "or --image-size"
        )
    if len(images.class_names) > config.model.num_classes:
        raise ValueError(
            f"there are {len(images.class_names)} classes, but --num-classes is {config.model.num_classes}"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


MEMBER = Kind("member", train_member, MemberConfig, slow_check=check_pictures, expect=Expect(30, 1_000_000))
EVALUATION = Kind("evaluation", evaluate, EvaluationConfig, version=2, expect=Expect(1, 10_000))
ENSEMBLE = Kind("ensemble", evaluate, EvaluationConfig, version=2, expect=Expect(1, 10_000))


def built_member(record: Record) -> Step:
    """The step that a member's record is of. Raises ValueError for one that this version would train otherwise."""
    fields = without_classes(record.config)
    kinds = {kind.__name__: kind for kind in SPLITS}
    fields["split"] = kinds[record.config["split"]["class"]].model_validate(fields["split"])
    step = replace(MEMBER(MemberConfig.model_validate(fields)), data=record.data)
    if step.fingerprint != record.fingerprint:
        raise ValueError(f"{record.key} was trained by another version: run its experiment again")
    return step
