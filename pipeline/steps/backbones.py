"""Backbones: a CLIP trained here or opened, and the classifier that words make of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip_configs import OpenedConfig, ZeroShotConfig
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.steps.pretrained_config import PretrainedConfig
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, load_clip, save_classifier, save_clip
from amalgam.tasks.clip.zero_shot import Classifier, templates_of, zero_shot_head
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.toy_clip.captioned import open_world
from amalgam.tasks.toy_clip.pretrain import pretrain

WEIGHTS = "open_clip"  # folder of fetched weights under the data root


def pretrain_clip(config: PretrainedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train both towers on a world's images and captions; after a retry, go on from the last finished epoch."""
    spec = config.world.clip.model_copy(update={"seed": config.seed})
    trained = pretrain(
        build_clip(spec), open_world(config.world, work.data_root, config.seed, work.device),
        config.world.pretraining, config.seed, log=work.log, resume=resume_state(work), save=saver(work),
        device=work.device,
    )  # fmt: skip
    save_clip(trained, spec, work.out)
    return {"backbone": key_of(trained)}


def open_clip(config: OpenedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Note which weights are used; they stay where open_clip keeps them, and their key says if they change."""
    clip = build_clip(config.clip, weights_root(work.data_root))
    save_clip(clip, config.clip, work.out)
    return {"backbone": key_of(clip)}


def make_zero_shot(config: ZeroShotConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """The classifier before any fine-tuning: the image tower and a head made of the class names."""
    clip = load_clip(inputs["backbone"], weights_root(work.data_root))
    about = ClassifierInfo(
        clip=_spec(inputs["backbone"]), class_names=config.class_names,
        templates=templates_of(config.templates), backbone=key_of(clip),
    )  # fmt: skip
    clip.model.to(work.device)
    head = zero_shot_head(clip, about.class_names, about.templates)
    save_classifier(Classifier(clip.image_tower, head), about, work.out)
    return {"backbone": about.backbone, "logit_scale": clip.logit_scale}


def weights_root(data_root: Path | None) -> Path | None:
    """Where fetched weights lie: under the data root if there are any, else where open_clip puts them."""
    place = data_root / WEIGHTS if data_root else None
    return place if place and place.is_dir() else None


def _spec(folder: Path) -> ClipSpec:
    return ClipSpec.model_validate_json((folder / "clip.json").read_bytes())
