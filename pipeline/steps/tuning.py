"""Fine-tune a classifier: plainly, by its head, or with its features held to those of the frozen encoder."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.step import Resources
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.backbones import weights_root
from amalgam.pipeline.steps.clip_configs import ContrastiveConfig, LabelledConfig, TunedConfig
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.store.clip_checkpoints import load_classifier, load_clip, read_about, read_sae, save_classifier
from amalgam.pipeline.store.features import anchors, read_features
from amalgam.tasks.clip.finetuning.anchors import CachedAnchors, Unlabelled
from amalgam.tasks.clip.finetuning.contrastive import finetune_contrastive
from amalgam.tasks.clip.finetuning.drift import principal_directions
from amalgam.tasks.clip.finetuning.finetune import finetune
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.splits import Indices, hold_out
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit
from amalgam.tasks.sae.config import FeatureInfo
from amalgam.tasks.training.distributed import ALONE, World


def open_labelled(config: LabelledConfig, data_root: Path | None) -> tuple[Images, Indices, Indices]:
    """The labelled images, the positions that are trained on, and those held out."""
    images = open_source(config.source, data_root)
    kept, held_out = hold_out(images.labels.numpy(), config.validation_share, config.seed)
    return images, kept, held_out


def tune(config: TunedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train and keep the best epoch on held-out images; after a retry, go on from the last finished epoch.

    With more than one process all of them train together through Ray Train, to the same result.
    """
    if work.num_workers == 1:
        return _tune(config, inputs, work, ALONE, work.device)
    from amalgam.pipeline.engine.ray_train import run_distributed  # here, not above: a run without Ray needs none

    resources = Resources(work.cpus_each, work.gpus_each, work.num_workers)
    return dict(run_distributed(partial(_tune, config, inputs, work), resources, work.scratch))


def tune_contrastive(config: ContrastiveConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train both towers on prompts of the labels, and keep the classifier they make in their best epoch."""
    images, kept, held_out = open_labelled(config.labelled, work.data_root)
    trained = finetune_contrastive(
        load_clip(inputs["backbone"], weights_root(work.data_root)), images, kept, held_out,
        config.class_names, config.templates, config.training, config.seed, log=work.log,
        resume=resume_state(work), save=saver(work), device=work.device,
    )  # fmt: skip
    save_classifier(trained.module, read_about(inputs["classifier"]), work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def _tune(config: TunedConfig, inputs: Mapping[str, Any], work: Workspace, world: World, device: str) -> Metrics:
    images, kept, held_out = open_labelled(config.labelled, work.data_root)
    about, classifier = read_about(inputs["classifier"]), load_classifier(inputs["classifier"])
    require_classes(about.class_names, images)
    is_first = world.rank == 0  # the others compute the same, and one record is enough
    trained = finetune(
        classifier, images, kept, held_out, config.finetuning, config.seed,
        sae=_sae(config, inputs, classifier, about.backbone),
        basis=_basis(config, inputs, about.backbone),
        anchors=_anchors(config, inputs, "anchors", images, about.backbone),
        unlabelled=_unlabelled(config, inputs, work.data_root, about.backbone),
        log=work.log if is_first else _silent, resume=resume_state(work), save=saver(work) if is_first else None,
        device=device, world=world, compiler="inductor" if config.compiled else None,
    )  # fmt: skip
    if is_first:
        save_classifier(trained.module, about, work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def require_classes(class_names: Sequence[str], images: Images) -> None:
    """Raise ValueError if a label has no class in the head."""
    most = int(images.labels.max())
    if most >= len(class_names):
        raise ValueError(f"there is an image of class {most}, but the head has {len(class_names)} classes")


def _sae(
    config: TunedConfig, inputs: Mapping[str, Any], classifier: Classifier, backbone: str
) -> SparseAutoencoder | None:
    if config.sae is None:
        return None
    width = classifier.head.get_parameter("weight").shape[1]
    features = FeatureInfo(width=width, normalised=config.sae.normalised, backbone=backbone)
    return read_sae(inputs["saes"], config.sae.name, features)


def _basis(config: TunedConfig, inputs: Mapping[str, Any], backbone: str) -> Tensor | None:
    if config.components is None:
        return None
    table = read_features(inputs["features"], backbone=backbone)
    return principal_directions(unit(table.features.float()), config.components)


def _anchors(
    config: TunedConfig, inputs: Mapping[str, Any], role: str, images: Images, backbone: str
) -> CachedAnchors | None:
    if not inputs.get(role):
        return None
    staged = anchors(inputs[role], len(images), backbone, images.fingerprint)
    return CachedAnchors(staged, clean=config.clean_anchors)


def _unlabelled(
    config: TunedConfig, inputs: Mapping[str, Any], data_root: Path | None, backbone: str
) -> Unlabelled | None:
    if config.unlabelled is None:
        return None
    images = open_source(config.unlabelled, data_root)
    return Unlabelled(images, _anchors(config, inputs, "unlabelled_anchors", images, backbone))


def _silent(metrics: Mapping[str, float], epoch: int) -> None:
    """What processes other than the first log."""
