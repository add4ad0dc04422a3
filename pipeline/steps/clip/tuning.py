"""Fine-tune a classifier: plainly, by its head, or with a penalty on drift from the frozen encoder's features."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Metrics, Resources
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.features import FEATURES, StagedFeatures
from amalgam.pipeline.steps.clip.saes import SAES, ChosenSAE
from amalgam.pipeline.steps.clip.selection import SELECTED
from amalgam.tasks.clip.finetuning.config import FinetuneConfig, require_contrastive
from amalgam.tasks.data.sources import LabelledConfig, Source
from amalgam.tasks.training.config import DFR, JTT, GroupDRO, TrainConfig

if TYPE_CHECKING:
    from amalgam.tasks.clip.finetuning.anchors import Unlabelled
    from amalgam.tasks.clip.testing.similarity import DriftWatch
    from amalgam.tasks.clip.zero_shot import Classifier
    from amalgam.tasks.data.images import Images
    from amalgam.tasks.data.splits import Indices
    from amalgam.tasks.training.distributed import ProcessGroup
    from amalgam.tasks.training.objective import Objective


MEASURED = 512  # images whose features say how long features are


class TunedConfig(Config):
    """A classifier fine-tuned on labelled images."""

    labelled: LabelledConfig
    finetuning: FinetuneConfig
    sae: ChosenSAE | None = None
    """Which of the autoencoders; None where the regulariser needs none."""
    unit_strengths: bool = False
    """Whether the strength is meant for features of norm 1, and is converted to those that the autoencoder reads."""
    clean_anchors: bool = False
    """Whether drift is measured from features of untouched pictures whatever view is trained on: an approximation."""
    components: int | None = Field(default=None, ge=1)
    """Principal directions of the staged features, for PCA."""
    unlabelled: Source | None = None
    """Images whose labels are not read, on which drift is penalised too or instead."""
    compiled: bool = False
    """Whether torch.compile makes the network faster first; it rounds otherwise."""
    read_by: ChosenSAE | None = None
    """The autoencoder by which drift is logged after every epoch, the same for every method; None logs none."""
    robust: Annotated[GroupDRO | JTT | DFR, Field(discriminator="kind")] | None = None
    """How training cares for the worst group; None trains on the mean."""
    seed: int
    """Orders the images."""


class ContrastiveConfig(Config):
    """Both towers fine-tuned on pairs of images and the prompts of their labels (FLYP)."""

    labelled: LabelledConfig
    training: TrainConfig
    class_names: tuple[str, ...]
    templates: tuple[str, ...] | str
    read_by: ChosenSAE | None = None
    seed: int

    @field_validator("training")
    @classmethod
    def _batches_are_whole(cls, training: TrainConfig) -> TrainConfig:
        require_contrastive(training)
        return training


def tune(config: TunedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train and keep the best epoch on held-out images; after a retry, go on from the last finished epoch.

    With more than one process all of them train together through Ray Train, to the same result.
    """
    from amalgam.tasks.training.distributed import ALONE

    if work.num_workers == 1:
        return _tune(config, inputs, work, ALONE, work.device)
    from amalgam.pipeline.engine.ray.training import run_distributed

    resources = Resources(work.cpus_each, work.gpus_each, work.num_workers)
    return dict(run_distributed(partial(_tune, config, inputs, work), resources, work.scratch))


def tune_contrastive(config: ContrastiveConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train both towers on prompts of the labels, and keep the classifier they make in their best epoch."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.clip_checkpoints import load_clip, read_about, save_classifier, weights_root
    from amalgam.tasks.clip.finetuning.contrastive import finetune_contrastive
    from amalgam.tasks.data.opening import open_labelled

    images, kept, held_out = open_labelled(config.labelled, work.data_root)
    trained = finetune_contrastive(
        load_clip(inputs["backbone"], weights_root(work.data_root)),
        images,
        kept,
        held_out,
        config.class_names,
        config.templates,
        config.training,
        config.seed,
        log=work.log,
        measure=_watch(config, inputs, images, held_out, work.device),
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    )
    save_classifier(trained.module, read_about(inputs["classifier"]), work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def _tune(
    config: TunedConfig, inputs: Mapping[str, Any], work: Workspace, processes: ProcessGroup, device: str
) -> Metrics:
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about, save_classifier
    from amalgam.tasks.clip.finetuning.finetune import finetune
    from amalgam.tasks.clip.zero_shot import require_head_classes
    from amalgam.tasks.data.opening import open_labelled
    from amalgam.tasks.training.epochs import silent

    images, kept, held_out = open_labelled(config.labelled, work.data_root)
    about, classifier = read_about(inputs["classifier"]), load_classifier(inputs["classifier"])
    require_head_classes(about.class_names, images)
    roles = ("features", "anchors", "unlabelled_anchors")
    staged = {role: FEATURES.read(inputs.get(role, ()), about.backbone) for role in roles}
    is_first = processes.rank == 0  # the others compute the same, and one record is enough
    indices, objective = _for_groups(config, inputs, images, kept, device)
    finetuning = _selected(config.finetuning, inputs)
    if config.unit_strengths:
        finetuning = _at_own_length(finetuning, classifier, images, kept, device)
    trained = finetune(
        classifier,
        images,
        indices,
        held_out,
        finetuning,
        config.seed,
        sae=SAES.read(inputs.get("saes"), config.sae, classifier.head.in_features, about.backbone),
        basis=staged["features"].directions(config.components),
        anchors=staged["anchors"].anchors(images, config.clean_anchors),
        unlabelled=_unlabelled(config, staged["unlabelled_anchors"], work.data_root),
        objective=objective,
        measure=_watch(config, inputs, images, held_out, device),
        log=work.log if is_first else silent,
        resume=resume_state(work),
        save=saver(work) if is_first else None,
        device=device,
        processes=processes,
        compiler="inductor" if config.compiled else None,
    )
    if is_first:
        save_classifier(trained.module, about, work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def _for_groups(
    config: TunedConfig, inputs: Mapping[str, Any], images: Images, kept: Indices, device: str
) -> tuple[Indices, Objective | None]:
    """What is trained on and by which objective, if the worst group counts. Raises ValueError without groups."""
    from amalgam.pipeline.store.clip_checkpoints import load_classifier
    from amalgam.tasks.scoring.logits import predict
    from amalgam.tasks.training.group_robust import GroupWeighted, balanced, repeated

    if isinstance(config.robust, JTT):
        first = load_classifier(inputs["first"]).to(device)
        wrong = predict(first, images, kept, device=device).argmax(1) != images.labels[kept]
        return repeated(kept, wrong.numpy(), config.robust.times), None
    if config.robust is None:
        return kept, None
    if images.groups is None:
        raise ValueError(f"{config.robust.kind} needs images in groups, these have none: choose another method")
    if isinstance(config.robust, DFR):
        return balanced(kept, images.groups[kept].numpy(), config.seed), None
    return kept, GroupWeighted(config.robust, images.groups, config.finetuning.train.label_smoothing)


def _selected(finetuning: FinetuneConfig, inputs: Mapping[str, Any]) -> FinetuneConfig:
    """The same with the latents that a selection forbids and keeps."""
    selected = SELECTED.read(inputs.get("selected"))
    if selected is None:
        return finetuning
    regulariser = finetuning.regulariser.model_copy(update=vars(selected))
    return finetuning.model_copy(update={"regulariser": type(regulariser).model_validate(dict(regulariser))})


def _at_own_length(
    finetuning: FinetuneConfig, classifier: Classifier, images: Images, indices: Indices, device: str
) -> FinetuneConfig:
    """The penalty that is on features as the encoder gives them what it would be on those of norm 1."""
    import torch

    from amalgam.tasks.data.loading import batches

    first = next(batches(images, indices[:MEASURED], MEASURED, device=device))
    with torch.no_grad():
        length = classifier.encoder.to(device)(first.images).float().norm(dim=1).mean().item()
    return finetuning.model_copy(update={"regulariser": finetuning.regulariser.at_length(length)})


def _watch(
    config: TunedConfig | ContrastiveConfig, inputs: Mapping[str, Any], images: Images, held_out: Indices, device: str
) -> DriftWatch | None:
    """What measures the drift of held-out images after every epoch, by the autoencoder that reads all methods."""
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.tasks.clip.testing.similarity import DriftWatch

    if config.read_by is None:
        return None
    start, backbone = load_classifier(inputs["classifier"]), read_about(inputs["classifier"]).backbone
    sae = SAES.read(inputs["read_by"], config.read_by, start.head.in_features, backbone)
    return DriftWatch.start(start.encoder, images, held_out, sae, device)


def _unlabelled(config: TunedConfig, staged: StagedFeatures, data_root: Path | None) -> Unlabelled | None:
    from amalgam.tasks.clip.finetuning.anchors import Unlabelled
    from amalgam.tasks.data.opening import open_source

    if config.unlabelled is None:
        return None
    images = open_source(config.unlabelled, data_root)
    return Unlabelled(images, staged.anchors(images, config.clean_anchors))


TUNED = Kind("tuned", tune, TunedConfig, is_distributed=True)
CONTRASTIVE = Kind("tuned", tune_contrastive, ContrastiveConfig)
