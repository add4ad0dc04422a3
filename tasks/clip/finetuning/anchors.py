"""The frozen encoder from which drift is measured: as a network, or as features that were staged before."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from amalgam.tasks.clip.finetuning.drift import frozen
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Augmentation, Batch, read_batch
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.seeding import derived

Anchors = Callable[[Batch, int], Tensor]
"""A batch and its epoch, from 1, to the frozen features (batch, width) of those very images."""
PARTNERS = 1 << 32  # beside an epoch's seed: which unlabelled image comes with which labelled one


class Views(Protocol):
    """Features (images, width) by number of the view: a tensor of all, or something that reads one at a time."""

    def __len__(self) -> int:
        """How many views there are."""

    def __getitem__(self, view: int) -> Tensor:
        """The features of one."""


@dataclass(frozen=True)
class CachedAnchors:
    """Frozen features computed beforehand, of the views that training sees, in turn (`TrainConfig.view_number`).

    An epoch reads one view. Half precision is widened batch by batch.
    """

    features: Views
    """(views, images, width); rows of images that are not trained on may hold anything."""
    clean: bool = False
    """Whether a single view, that of untouched pictures, stands for all: an approximation, off by default."""

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        view = (epoch - 1) % len(self.features)
        of_view = self.features[view]
        rows = of_view[batch.ids.to(of_view.device)].to(batch.images.device)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        missing = ~rows.isfinite().all(1)
        if missing.any():
            absent = int(batch.ids[missing.cpu()][0])
            raise ValueError(f"there are no anchor features of image {absent} in view {view}: stage them again")
        return rows

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError if epochs would be compared with features of pictures that they do not see."""
        count, seen = len(self.features), [config.view_number(epoch) for epoch in range(1, config.epochs + 1)]
        if self.clean and count == 1:
            return
        if config.num_views is None or seen != [index % count for index in range(config.epochs)]:
            seen_text = "pictures drawn anew" if config.num_views is None else f"{config.num_views} views"
            raise ValueError(
                f"the anchors are of {count} views, but {config.epochs} epochs of augment {config.augment!r} see "
                f"{seen_text}: stage anchors of those views, or leave them out"
            )


@dataclass(frozen=True)
class Unlabelled:
    """Images on which feature drift is penalised, whatever they show; their labels are not read."""

    images: Images
    anchors: Anchors | None = None
    """Their frozen features; None computes them beside training."""

    def beside(self, batch: Batch, num_labelled: int, seed: int, epoch: int, augment: Augmentation) -> Batch:
        """As many images as a labelled batch has, the same for a labelled image whatever its batch.

        In an epoch each image comes with one of `num_labelled`, and none comes again before all have come. They are
        augmented as the labelled ones are, by torch's own generator where that draws at random.
        """
        partners = _partners(num_labelled, len(self.images), derived(seed, epoch, PARTNERS))
        return read_batch(self.images, partners[batch.ids], augment, torch.default_generator, batch.images.device)


@lru_cache(maxsize=1)
def _partners(count: int, num_images: int, seed: int) -> Tensor:
    """For each of `count` places an image: permutations of all images, one after the other, (count,)."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-count // num_images)
    return torch.cat([torch.randperm(num_images, generator=generator) for _ in range(rounds)])[:count]


def anchor(classifier: Classifier, device: torch.device | str) -> Classifier:
    """A frozen copy that computes by the very kernels of training, so that drift before the first step is exactly 0."""
    copied = frozen(classifier).to(device).to(memory_format=torch.channels_last)
    for module in copied.modules():
        # Without gradients in eval mode, attention takes a faster path that rounds otherwise.
        if isinstance(module, nn.MultiheadAttention):
            module.training = True
    return copied
