"""Which images each step reads: drawn from the training split by the configuration alone, so that all steps agree."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from amalgam.pipeline.steps.configs import MemberConfig, ProbeConfig, SampleConfig
from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.loading import Batch, batches
from amalgam.tasks.data.splits import Indices, hold_out
from amalgam.tasks.models.spec import ModelSpec


def open_pool(config: SampleConfig, data_root: Path | None) -> tuple[Images, Indices, Indices]:
    """The training images, the positions members may be trained on, and those held out for validation."""
    images = load(config.data, "train", data_root)
    pool, validation = hold_out(images.labels.numpy(), config.validation_share, config.seed)
    return images, pool, validation


def require_fit(images: Images, model: ModelSpec) -> None:
    """Raise ValueError for images of another shape, or of more classes, than a network is made for."""
    if images.shape != model.in_shape:
        raise ValueError(
            f"pictures of {_by(images.shape)} do not fit a network for {_by(model.in_shape)}: give --channels or "
            "--image-size"
        )
    if len(images.class_names) > model.num_classes:
        raise ValueError(f"there are {len(images.class_names)} classes, but --num-classes is {model.num_classes}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def member_indices(config: MemberConfig, images: Images, pool: Indices) -> Indices:
    """The positions that one member is trained on."""
    if config.member >= config.num_members:
        raise ValueError(f"member must be below {config.num_members}, got {config.member}")
    labels = images.labels.numpy()[pool]
    return pool[config.split(labels, config.num_members, config.sample.seed)[config.member]]


def probe_indices(config: ProbeConfig, pool: Indices) -> Indices:
    """The positions of the probe. Raises ValueError if there are fewer images than asked for."""
    if config.num_rows > len(pool):
        raise ValueError(
            f"the probe needs {config.num_rows} images, but only {len(pool)} may be used: lower --probe-rows"
        )
    order = np.random.default_rng((config.sample.seed, 1)).permutation(len(pool))
    return np.sort(pool[order[: config.num_rows]])


class Repeatable:
    """Input batches of some images that can be streamed again and again."""

    def __init__(self, images: Images, indices: Indices, batch_size: int, device: str) -> None:
        self.images, self.indices, self.batch_size, self.device = images, indices, batch_size, device

    def batches(self) -> Iterator[Batch]:
        """Ids, inputs and labels, batch by batch."""
        return batches(self.images, self.indices, self.batch_size, device=self.device)

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self.batches())


def example(images: Images, device: str) -> Tensor:
    """Two images as the network sees them, to trace and time it with."""
    return next(iter(Repeatable(images, np.arange(2), 2, device)))
