"""Stage the features of a frozen image encoder: once for every view, shared by all that is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.sources import AnySource, Corrupted, MixedStyles, Source, Styled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from amalgam.pipeline.store.tables.features import Staged
    from amalgam.tasks.clip.finetuning.anchors import CachedAnchors
    from amalgam.tasks.data.images import Images


class FeaturesConfig(Config):
    """Features that a frozen encoder gives to some images, in some of their views."""

    source: Source
    """Which images."""
    augment: Literal["none", "shift", "resized_crop"] = "none"
    """The kind of views, as in `TrainConfig.augment`."""
    views: tuple[int, ...] = (0,)
    """Which views of that kind, counted from 0."""
    dtype: Literal["float16", "float32"] = "float32"
    """How features are stored. Only float32 gives fine-tuning the numbers it would compute itself."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass; it sets how sums are rounded."""
    part: int = Field(default=0, ge=0)
    """Which share of the images this is, from 0."""
    num_parts: int = Field(default=1, ge=1)
    """Shares of whole batches, in order, which can be encoded side by side."""
    domain: str = ""
    """What the images are called as a domain; empty takes the style of each where the source draws styles."""

    @model_validator(mode="after")
    def _views_and_part_exist(self) -> Self:
        if len(set(self.views)) < max(1, len(self.views)) or min(self.views) < 0:
            raise ValueError(f"views must be different numbers from 0 on, got {self.views}")
        if self.augment == "none" and self.views != (0,):
            raise ValueError(f"without augmentation there is only view 0, got {self.views}: choose another augment")
        if self.part >= self.num_parts:
            raise ValueError(f"part must be below {self.num_parts}, got {self.part}")
        return self


def stage_features(config: FeaturesConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `features.parquet`, view after view; memory does not grow with the number of images.

    The features are the very ones that fine-tuning with live anchors computes, up to rounding that depends on the size
    of batches. They are those of the encoder, not normalised.
    """
    from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
    from amalgam.pipeline.store.tables.features import FEATURES, Staged
    from amalgam.tasks.clip.finetuning.finetune import anchor
    from amalgam.tasks.data.opening import open_source

    images = open_source(config.source, work.data_root)
    encoder = anchor(load_classifier(inputs["encoder"]), work.device).encoder
    staged = Staged(
        backbone=read_about(inputs["encoder"]).backbone,
        data=images.fingerprint,
        augment=config.augment,
        views=config.views,
        part=config.part,
        num_parts=config.num_parts,
    )
    num_rows, width = write_features(work.out / FEATURES, encoder, images, config, staged, work.device)
    return {"rows": num_rows, "width": width, "data_fingerprint": images.fingerprint}


def write_features(
    path: Path, encoder: nn.Module, images: Images, config: FeaturesConfig, staged: Staged, device: str
) -> tuple[int, int]:
    """Write the part's features and give the number of rows and their width."""
    import torch

    from amalgam.pipeline.store.tables.features import SITE
    from amalgam.pipeline.store.tables.rows_schema import RowsSchema
    from amalgam.pipeline.store.tables.rows_writer import RowsWriter
    from amalgam.tasks.data.loading import view_batches
    from amalgam.tasks.data.views import View

    indices = share(len(images), config)
    split = _split(config.source)
    with torch.no_grad():
        first = next(view_batches(images, indices[:2], 2, view=View(), device=device))
        width = encoder(first.images).shape[1]
        schema = RowsSchema(sites={SITE: (width, 1)}, dtype=config.dtype, provenance=staged.provenance)
        with RowsWriter(path, schema) as writer:
            for number in config.views:
                view = View(config.augment, number)
                for batch in view_batches(images, indices, config.batch_size, view=view, device=device):
                    features = {SITE: encoder(batch.images).float().cpu().numpy()}
                    domains = _domains(config, images, batch.ids)
                    writer.write(batch.ids.numpy(), batch.labels.cpu().numpy(), split, features, domains, number)
            return writer.num_rows, width


def share(num_images: int, config: FeaturesConfig) -> range:
    """Positions of the images of a part: its batches are batches of the whole, so that parts round as one would."""
    size = config.batch_size
    num_batches = -(-num_images // size)
    if config.num_parts > num_batches:
        raise ValueError(
            f"{num_images} images are {num_batches} batches of {size}, too few for {config.num_parts} "
            "parts: lower num_parts or batch_size"
        )
    first, end = (part * num_batches // config.num_parts for part in (config.part, config.part + 1))
    return range(first * size, min(end * size, num_images))


def _domains(config: FeaturesConfig, images: Images, ids: Tensor) -> str | list[str]:
    """The domain of all images of a batch, or of each."""
    source = config.source.source if isinstance(config.source, Corrupted) else config.source
    if config.domain:
        return config.domain
    if images.groups is not None:
        return [images.group_names[group] if group >= 0 else "" for group in images.groups[ids].tolist()]
    if isinstance(source, MixedStyles):
        return [source.styles[i % len(source.styles)] for i in ids.tolist()]
    return source.style if isinstance(source, Styled) else ""


def _split(source: AnySource) -> str:
    if isinstance(source, Corrupted):
        return _split(source.source)
    return source.pictures.split if isinstance(source, MixedStyles) else source.split


@dataclass(frozen=True)
class StagedFeatures:
    """What steps of this kind wrote of one encoder, opened as what its reader needs."""

    folders: Sequence[Path]
    backbone: str

    def anchors(self, images: Images, clean: bool) -> CachedAnchors | None:
        """The frozen features of those images by view; None if there are no folders."""
        from amalgam.pipeline.store.tables.features import anchors
        from amalgam.tasks.clip.finetuning.anchors import CachedAnchors

        if not self.folders:
            return None
        return CachedAnchors(anchors(self.folders, len(images), self.backbone, images.fingerprint), clean=clean)

    def directions(self, count: int | None) -> Tensor | None:
        """The first principal directions of all features, scaled to norm 1; None if `count` is."""
        from amalgam.pipeline.store.tables.features import read_features
        from amalgam.tasks.clip.finetuning.drift import principal_directions
        from amalgam.tasks.sae.autoencoder import unit_norm

        if count is None:
            return None
        return principal_directions(
            unit_norm(read_features(self.folders, backbone=self.backbone).features.float()), count
        )


FEATURES = Kind("features", stage_features, FeaturesConfig, version=2, read=StagedFeatures)
