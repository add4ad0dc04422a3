"""What a step of robust fine-tuning lowers: the cross-entropy of labels, and the drift of features from frozen ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.clip.finetuning.anchors import Anchors, Unlabelled
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import Autoencoder, Drift
from amalgam.tasks.clip.finetuning.strength import Strength
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.loading import Batch
from amalgam.tasks.models.image_tower import ImageTower
from amalgam.tasks.training.distributed import ProcessGroup
from amalgam.tasks.training.objective import Objective
from amalgam.tasks.training.step import augmentation

COUNT = "count"


@dataclass(frozen=True)
class PenaltyInputs:
    """What the penalty reads beside the batch."""

    anchor: Classifier
    """The classifier before fine-tuning, frozen."""
    sae: Autoencoder | None = None
    basis: Tensor | None = None
    anchors: Anchors | None = None
    """Frozen features of the labelled images; None computes them by `anchor`."""
    unlabelled: Unlabelled | None = None
    num_labelled: int = 0
    """Images that labelled ones are counted in, those that are not trained on included."""
    seed: int = 0


@dataclass(frozen=True)
class _Encoded:
    """Features of some images, and tokens inside the encoder if needed."""

    features: Tensor
    levels: tuple[Tensor, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence["_Encoded"]) -> "_Encoded":
        if len(parts) == 1:
            return parts[0]
        levels = zip(*(part.levels for part in parts), strict=True)
        return cls(torch.cat([part.features for part in parts]), tuple(torch.cat(level) for level in levels))


class PenalisedCrossEntropy(Objective):
    """Cross-entropy + strength x regulariser(drift), of a `Classifier`."""

    def __init__(self, config: FinetuneConfig, inputs: PenaltyInputs) -> None:
        super().__init__(config.train.label_smoothing)
        self.config, self.inputs, self.strength = config, inputs, Strength(config)
        self._step: dict[str, Tensor] = {}
        self._epoch: dict[str, Tensor] = {}

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        assert isinstance(module, Classifier)
        # Labelled images go through the encoder once, for cross-entropy and penalty alike: with dropout or batch norm a
        # second pass would see other features, and drift would not be that of what is classified. Unlabelled images
        # are a pass of their own, as they must not enter the batch statistics of labelled ones. The drift is then one
        # of both together, so that a mean over images weighs each image alike.
        labelled, now, before = self._read(module.encoder, batch), [], []
        if self.config.anchor_on != "unlabelled":
            now.append(labelled)
            before.append(self._frozen(batch, epoch, self.inputs.anchors, labelled))
        if self.config.anchor_on != "labelled":
            other = self._other(batch, epoch)
            now.append(self._read(module.encoder, other))
            before.append(self._frozen(other, epoch, self._unlabelled.anchors, now[-1]))
        logits = module.head(labelled.features)
        drift = self._drift(module, _Encoded.joined(now), _Encoded.joined(before))
        strength, parts = self.strength(drift), self.config.regulariser.parts(drift)
        penalty = strength * sum(parts.values(), start=drift.current.new_zeros(()))
        loss = self.cross_entropy(logits, batch.labels)
        self._note(len(batch.ids), {"cross_entropy": loss} | {f"penalty/{n}": strength * p for n, p in parts.items()})
        return logits, loss + penalty

    @torch.no_grad()
    def _note(self, count: int, terms: dict[str, Tensor]) -> None:
        """Add what the images of a part of a batch cost, term by term, to the step's sums."""
        for name, mean in {**terms, COUNT: torch.ones(())}.items():
            self._step[name] = self._step.get(name, 0) + count * mean.detach().double()

    def end_step(self, processes: ProcessGroup) -> None:
        self.strength.end_step(processes)
        for name, total in self._step.items():
            self._epoch[name] = self._epoch.get(name, 0) + total
        self._step = {}

    def forget_step(self) -> None:
        self._step = {}
        self.strength.forget_step()

    def metrics(self) -> dict[str, float]:
        """Every term's share of the loss, a mean over the epoch's images (of this process), as `train/penalty/TERM`."""
        count, terms, self._epoch = self._epoch[COUNT], self._epoch, {}
        found = {f"train/{name}": (total / count).item() for name, total in terms.items() if name != COUNT}
        return self.strength.metrics() | found

    def state(self) -> dict[str, Any]:
        return self.strength.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.strength.restore(state)

    @property
    def _unlabelled(self) -> Unlabelled:
        assert self.inputs.unlabelled is not None
        return self.inputs.unlabelled

    def _other(self, batch: Batch, epoch: int) -> Batch:
        """The unlabelled images that come with a batch."""
        inputs, augment = self.inputs, augmentation(self.config.train, epoch)
        return self._unlabelled.beside(batch, inputs.num_labelled, inputs.seed, epoch, augment)

    def _drift(self, module: Classifier, now: _Encoded, before: _Encoded) -> Drift:
        pairs = zip(module.parameters(), self.inputs.anchor.parameters(), strict=True)
        return Drift.between(
            now.features,
            before.features,
            self.inputs.sae,
            levels=tuple(zip(now.levels, before.levels, strict=True)),
            basis=self.inputs.basis,
            parameters=tuple(pairs) if "parameters" in self.config.regulariser.needs else (),
        )

    @torch.no_grad()
    def _frozen(self, batch: Batch, epoch: int, anchors: Anchors | None, now: _Encoded) -> _Encoded:
        if self.config.regulariser.needs == {"parameters"} and self.config.overlap is None:
            return now  # only weights are compared: a frozen pass would be for nothing
        return self._read(self.inputs.anchor.encoder, batch) if anchors is None else _Encoded(anchors(batch, epoch))

    def _read(self, encoder: nn.Module, batch: Batch) -> _Encoded:
        if "levels" not in self.config.regulariser.needs:
            return _Encoded(encoder(batch.images))
        if not isinstance(encoder, ImageTower):
            raise ValueError(f"levels need the image tower of a CLIP, this is a {type(encoder).__name__}")
        return _Encoded(*encoder.with_levels(batch.images))
