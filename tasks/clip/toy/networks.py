"""Small networks of open_clip for worlds, and how they are pre-trained, at any size. Importable without torch."""

from typing import Any, Literal

from amalgam.tasks.clip.toy.captions import PAIR_CAPTIONS, Captions
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.models.clip_spec import ClipSpec, Preprocessing
from amalgam.tasks.training.config import TrainConfig

HEAD_WIDTH = 32  # channels of an attention head


def small_clip(
    size: int,
    patch: int,
    width: int,
    layers: int,
    embed_dim: int,
    *,
    text_layers: int = 1,
    captions: Captions = PAIR_CAPTIONS,
) -> ClipSpec:
    """A vision transformer and a text transformer, both of open_clip, with the world's own words."""
    half = (0.5, 0.5, 0.5)
    return ClipSpec(
        architecture=small_architecture(size, patch, width, layers, embed_dim, captions.longest + 2, text_layers),
        words=captions.words,
        preprocessing=Preprocessing(size=(size, size), mean=half, std=half),
    )


def small_architecture(
    size: int, patch: int, width: int, layers: int, embed_dim: int, context_length: int, text_layers: int = 1
) -> dict[str, Any]:
    """The same two as open_clip's configuration; captions have at most `context_length` tokens.

    Raises ValueError for a width of the image tower that is not made of whole heads.
    """
    _require_heads(width)
    vision = {"image_size": size, "patch_size": patch, "width": width, "layers": layers, "head_width": HEAD_WIDTH}
    heads = embed_dim // HEAD_WIDTH
    text = {"context_length": context_length, "width": embed_dim, "heads": heads, "layers": text_layers}
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}


def pretrain_config(
    epochs: int, images_per_epoch: int, batch_size: int, precision: Literal["fp32", "bf16"] = "fp32"
) -> PretrainConfig:
    """Settings of pre-training that serve all worlds."""
    train = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        schedule="cosine",
        warmup_epochs=epochs / 20,
        clip_norm=1.0,
        precision=precision,
    )
    return PretrainConfig(train=train, images_per_epoch=images_per_epoch)


def of_length(config: PretrainConfig, num_images: int) -> PretrainConfig:
    """The same training with another number of images, in shorter epochs if they do not fill one."""
    epochs = max(1, num_images // config.images_per_epoch)
    per_epoch = num_images // epochs
    changes = {"epochs": epochs, "warmup_epochs": epochs / 20, "batch_size": min(config.train.batch_size, per_epoch)}
    return PretrainConfig(
        **dict(config) | {"train": TrainConfig(**dict(config.train) | changes), "images_per_epoch": per_epoch}
    )


def of_width(clip: ClipSpec, width: int) -> ClipSpec:
    """The same with another number of channels in the image tower.

    Raises ValueError for a width that is not made of whole heads.
    """
    _require_heads(width)
    assert isinstance(clip.architecture, dict), "worlds spell their network out"
    vision = clip.architecture["vision_cfg"] | {"width": width}
    return clip.model_copy(update={"architecture": clip.architecture | {"vision_cfg": vision}})


def _require_heads(width: int) -> None:
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise ValueError(f"width of the image tower must be a multiple of {HEAD_WIDTH}, got {width}")
