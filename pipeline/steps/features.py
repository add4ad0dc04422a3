"""Stage the features of a frozen image encoder: once for every view, shared by all that is trained on them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.features_config import FeaturesConfig
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about
from amalgam.pipeline.store.features import FEATURES, SITE, Staged
from amalgam.pipeline.store.rows import RowsWriter
from amalgam.pipeline.store.rows_schema import RowsSchema
from amalgam.tasks.clip.finetuning.finetune import anchor
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import view_batches
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import AnySource, Corrupted, MixedStyles, Styled
from amalgam.tasks.data.views import View


def stage_features(config: FeaturesConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `features.parquet`, view after view; memory does not grow with the number of images.

    The features are the very ones that fine-tuning with live anchors computes, up to rounding that depends on the size
    of batches. They are those of the encoder, not normalised.
    """
    images = open_source(config.source, work.data_root)
    encoder = anchor(load_classifier(inputs["encoder"]), work.device).encoder
    staged = Staged(
        backbone=read_about(inputs["encoder"]).backbone, data=images.fingerprint,
        augment=config.augment, views=config.views, part=config.part, num_parts=config.num_parts,
    )  # fmt: skip
    num_rows, width = write_features(work.out / FEATURES, encoder, images, config, staged, work.device)
    return {"rows": num_rows, "width": width, "data_fingerprint": images.fingerprint}


@torch.no_grad()
def write_features(
    path: Path, encoder: nn.Module, images: Images, config: FeaturesConfig, staged: Staged, device: str
) -> tuple[int, int]:
    """Write the part's features and give the number of rows and their width."""
    indices = share(len(images), config)
    split = _split(config.source)
    first = next(view_batches(images, indices[:2], 2, view=View(), device=device))
    width = encoder(first.images).shape[1]
    schema = RowsSchema(sites={SITE: (width, 1)}, dtype=config.dtype, provenance=staged.provenance)
    with RowsWriter(path, schema) as writer:
        for number in config.views:
            view = View(config.augment, number)
            for batch in view_batches(images, indices, config.batch_size, view=view, device=device):
                features = {SITE: encoder(batch.images).float().cpu().numpy()}
                domains = _domains(config, batch.ids)
                writer.write(batch.ids.numpy(), batch.labels.cpu().numpy(), split, features, domains, number)
        return writer.num_rows, width


def share(num_images: int, config: FeaturesConfig) -> Tensor:
    """Positions of the images of a part: its batches are batches of the whole, so that parts round as one would."""
    batches = torch.arange(num_images).split(config.batch_size)
    if config.num_parts > len(batches):
        raise ValueError(
            f"{num_images} images are {len(batches)} batches of {config.batch_size}, too few for {config.num_parts} "
            "parts: lower num_parts or batch_size"
        )
    bounds = [part * len(batches) // config.num_parts for part in (config.part, config.part + 1)]
    return torch.cat(batches[slice(*bounds)])


def _domains(config: FeaturesConfig, ids: Tensor) -> str | list[str]:
    """The domain of all images of a batch, or of each."""
    source = config.source.source if isinstance(config.source, Corrupted) else config.source
    if config.domain:
        return config.domain
    if isinstance(source, MixedStyles):
        return [source.styles[i % len(source.styles)] for i in ids.tolist()]
    return source.style if isinstance(source, Styled) else ""


def _split(source: AnySource) -> str:
    if isinstance(source, Corrupted):
        return _split(source.source)
    return source.pictures.split if isinstance(source, MixedStyles) else source.split
