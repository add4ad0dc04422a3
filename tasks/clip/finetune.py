"""Fine-tune a zero-shot classifier while its features are held to those of the frozen encoder.

    loss = cross-entropy + strength x regulariser(drift)

`tasks.train` runs the loop, so a run cut short and resumed ends with the same weights, and the epoch is chosen on
held-out examples of the training distribution. LP-FT (Kumar et al. 2022) is two runs: the head, then everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.clip.drift import Autoencoder, Drift, frozen
from tasks.clip.finetune_config import FinetuneConfig
from tasks.clip.zero_shot import Classifier
from tasks.data.images import Images
from tasks.data.loading import Batch, Indices
from tasks.models.image_tower import ImageTower
from tasks.train import Log, State, Trained, train

Anchors = Callable[[Batch, int], Tensor]
"""A batch and its epoch, from 1, to the frozen features (batch, width) of those very images."""


def finetune(
    classifier: Classifier,
    images: Images,
    indices: Indices,
    validation_indices: Indices,
    config: FinetuneConfig,
    seed: int,
    *,
    log: Log,
    sae: Autoencoder | None = None,
    basis: Tensor | None = None,
    anchors: Anchors | None = None,
    resume: State | None = None,
    save: Callable[[State], None] | None = None,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train a copy of `classifier`, whose encoder as it is now is the anchor; the rest is as in `tasks.train.train`.

    Frozen features come from `anchors`, or from a frozen copy of the encoder where None. `sae` and `basis` are for the
    regularisers that need them. Raises ValueError if one of those is missing.
    """
    objective = None
    if config.penalised:
        if anchors is not None and "levels" in config.regulariser.needs:
            raise ValueError(f"{type(config.regulariser).__name__} reads inside the frozen encoder: leave anchors out")
        given = _Given(_on(sae, device), None if basis is None else basis.to(device), anchors)
        objective = _Robust(config, _anchor(classifier, device), given)
    probe = config.trained == "head"
    trained = train(
        Classifier(frozen(classifier.encoder), classifier.head) if probe else classifier,
        images, indices, validation_indices, config.train, seed,
        log=log, objective=objective, resume=resume, save=save, device=device,
    )  # fmt: skip
    trained.module.requires_grad_(True)  # the encoder of a probe learns in the next run
    return trained


@dataclass(frozen=True)
class CachedAnchors:
    """Frozen features computed beforehand, of one or several views of every image; epochs go through views in turn."""

    features: Tensor
    """(views, images, width); rows of images that are not trained on may hold anything."""

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        view = (epoch - 1) % len(self.features)
        rows = self.features[view, batch.ids.to(self.features.device)].to(batch.images.device)
        missing = ~rows.isfinite().all(1)
        if missing.any():
            absent = int(batch.ids[missing.cpu()][0])
            raise ValueError(f"there are no anchor features of image {absent} in view {view}: stage them again")
        return rows


@dataclass(frozen=True)
class _Given:
    """What the caller has for the regularisers."""

    sae: Autoencoder | None
    basis: Tensor | None
    anchors: Anchors | None


@dataclass(frozen=True)
class _Robust:
    """The objective of `tasks.train`: logits and the penalty of a batch."""

    config: FinetuneConfig
    anchor: Classifier
    given: _Given

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        assert isinstance(module, Classifier)
        features, levels = self._read(module.encoder, batch)
        before, frozen_levels = self._frozen(batch, epoch)
        pairs = zip(module.parameters(), self.anchor.parameters(), strict=True)
        drift = Drift.between(
            features,
            before,
            self.given.sae,
            levels=tuple(zip(levels, frozen_levels, strict=True)),
            basis=self.given.basis,
            parameters=tuple(pairs) if "parameters" in self.config.regulariser.needs else (),
        )
        return module.head(features), self.config.strength * self.config.regulariser(drift)

    @torch.no_grad()
    def _frozen(self, batch: Batch, epoch: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.given.anchors is not None:
            return self.given.anchors(batch, epoch), ()
        return self._read(self.anchor.encoder, batch)

    def _read(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        if "levels" not in self.config.regulariser.needs:
            return encoder(batch.images), ()
        if not isinstance(encoder, ImageTower):
            raise ValueError(f"levels are read inside the image tower of a CLIP, this is a {type(encoder).__name__}")
        return encoder.with_levels(batch.images)


def _anchor(classifier: Classifier, device: torch.device | str) -> Classifier:
    """A frozen copy that computes by the very kernels of training, so that drift before the first step is exactly 0."""
    copied = frozen(classifier).to(device).to(memory_format=torch.channels_last)
    for module in copied.modules():
        # Without gradients in eval mode, attention takes a faster path that rounds otherwise.
        if isinstance(module, nn.MultiheadAttention):
            module.training = True
    return copied


def _on(sae: Autoencoder | None, device: torch.device | str) -> Any:
    return frozen(sae).to(device) if isinstance(sae, nn.Module) else sae
