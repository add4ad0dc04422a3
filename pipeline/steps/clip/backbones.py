"""Backbones: a CLIP trained here or opened, and the classifier that words make of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.clip.prompts import templates_of
from amalgam.tasks.clip.toy.worlds import AnyWorld
from amalgam.tasks.models.clip_spec import ClipSpec


class PretrainedConfig(Config):
    """A CLIP trained here on a world of its own."""

    world: AnyWorld
    seed: int = Field(ge=0)
    """Draws the weights, the images and their captions."""


class OpenedConfig(Config):
    """A CLIP whose weights are on this machine."""

    clip: ClipSpec
    digest: str = ""
    """16 hex digits of the SHA-256 of its file of weights; empty where a tag names them."""


class ZeroShotConfig(Config):
    """An image tower and a head made of words."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...] | str
    """Sentences with a slot {}, or the name of a set: openai, simple."""


def pretrain_clip(config: PretrainedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train both towers on a world's images and captions; after a retry, go on from the last finished epoch."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.clip_checkpoints import key_of, save_clip
    from amalgam.tasks.clip.toy.captioned import open_world
    from amalgam.tasks.clip.toy.pretrain import pretrain
    from amalgam.tasks.models.clip import build_clip

    spec = config.world.clip.model_copy(update={"seed": config.seed})
    trained = pretrain(
        build_clip(spec),
        open_world(config.world, work.data_root, config.seed, work.device),
        config.world.pretraining,
        config.seed,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    )
    save_clip(trained, spec, work.out)
    return {"backbone": key_of(trained)}


def open_clip(config: OpenedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Note which weights are used; they stay where open_clip keeps them, and their key says if they change."""
    from amalgam.pipeline.store.clip_checkpoints import key_of, save_clip, weights_root
    from amalgam.tasks.models.clip import build_clip

    clip = build_clip(config.clip, weights_root(work.data_root))
    save_clip(clip, config.clip, work.out)
    return {"backbone": key_of(clip)}


def make_zero_shot(config: ZeroShotConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """The classifier before any fine-tuning: the image tower and a head made of the class names."""
    from amalgam.pipeline.store.clip_checkpoints import (
        ClassifierInfo,
        key_of,
        load_clip,
        read_clip_spec,
        save_classifier,
        weights_root,
    )
    from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head

    clip = load_clip(inputs["backbone"], weights_root(work.data_root))
    about = ClassifierInfo(
        clip=read_clip_spec(inputs["backbone"]),
        class_names=config.class_names,
        templates=templates_of(config.templates),
        backbone=key_of(clip),
    )
    clip.model.to(work.device)
    head = zero_shot_head(clip, about.class_names, about.templates)
    save_classifier(Classifier(clip.image_tower, head), about, work.out)
    return {"backbone": about.backbone, "logit_scale": clip.logit_scale}


def check_weights(config: OpenedConfig, data_root: Path | None) -> None:
    """Raise ValueError, with the command that fetches them, unless the weights are on this machine."""
    from amalgam.pipeline.store.clip_checkpoints import weights_root
    from amalgam.tasks.models.clip import require_weights

    require_weights(config.clip, weights_root(data_root))


PRETRAINED = Kind("pretrained", pretrain_clip, PretrainedConfig, expect=Expect(45, 1_000_000))
OPENED = Kind("opened", open_clip, OpenedConfig, check=check_weights, expect=Expect(20, 1_000))
ZERO_SHOT = Kind("zero_shot", make_zero_shot, ZeroShotConfig, expect=Expect(5, 1_000_000))
