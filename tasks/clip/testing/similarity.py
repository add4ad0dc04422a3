"""How far apart two encoders see the same images: cosines, linear CKA, and what a sparse autoencoder says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from amalgam.tasks.clip.finetuning.drift import Drift, frozen
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices, batches
from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.metrics import QualityMeter
from amalgam.tasks.scoring.sums import Sums

MEANS = (
    *("cosine", "length", "jaccard", "added", "removed", "l0_before", "l0"),
    *("activation_before", "activation", "new_activation"),
)
WATCHED = 512  # images on which drift is measured after every epoch


@dataclass
class DriftMeter:
    """Sums over batches of features before and after fine-tuning; any order of images gives the same numbers.

    Features are scaled to norm 1, unless the autoencoder was trained on others.
    """

    sae: SparseAutoencoder | None = None
    """Reads both; a frozen copy is kept."""
    sums: Sums = field(default_factory=Sums)

    def __post_init__(self) -> None:
        self.sae = None if self.sae is None else frozen(self.sae)
        self._quality = {} if self.sae is None else {when: QualityMeter(self.sae) for when in ("before", "after")}

    @property
    def num_examples(self) -> int:
        """How many images were counted."""
        return self.sums.num_examples

    @torch.no_grad()
    def update(self, before: Tensor, after: Tensor) -> None:
        """Count the features of a batch of images, (batch, width) each."""
        drift = Drift.between(after, before, self.sae)
        x, y = drift.frozen.double(), drift.current.double()
        moments = {"x": x.sum(0), "y": y.sum(0), "xx": x.T @ x, "xy": x.T @ y, "yy": y.T @ y}
        lengths = before.double().norm(dim=1).sum()
        self.sums.add(moments | {"cosine": cosine_similarity(x, y, dim=-1).sum(), "length": lengths})
        self.sums.count(len(x))
        if self.sae is not None:
            shared = drift.shared.sum((1, 2))
            added, removed = drift.codes.l0() - shared, drift.frozen_codes.l0() - shared
            is_new = drift.codes.active & ~drift.shared.any(2)
            self.sums.add({"jaccard": drift.overlap.double().sum(), "added": added.sum(), "removed": removed.sum()})
            sizes = {"": drift.codes, "_before": drift.frozen_codes}
            self.sums.add({f"l0{when}": codes.l0().sum() for when, codes in sizes.items()})
            self.sums.add({f"activation{when}": codes.values.abs().double().sum() for when, codes in sizes.items()})
            self.sums.add({"new_activation": (drift.codes.values.abs() * is_new).double().sum()})
            self._quality["before"].update(drift.frozen)
            self._quality["after"].update(drift.current)

    def result(self) -> dict[str, float]:
        """`cka`, the mean `cosine`, and the `width` and mean `length` of the features before they are scaled.

        With an autoencoder also `fvu_before` and `fvu_after` and, as means over images, the `jaccard` of both sets of
        active latents, how many were `added` and `removed`, and the sum of all activations now (`activation`) and
        `_before`, and of those on added latents (`new_activation`).

        Raises ValueError if there was no image.
        """
        self.sums.require("features to measure drift on")
        found = {"cka": _linear_cka(self.sums, self.num_examples), "width": float(len(self.sums["x"]))}
        found |= {name: self.sums[name].item() / self.num_examples for name in MEANS if name in self.sums}
        return found | {f"fvu_{when}": meter.result().fvu for when, meter in self._quality.items()}


@dataclass(frozen=True)
class DriftWatch:
    """How far the features of the same few images have moved, on demand and without effect on training."""

    images: Tensor
    """As the encoder reads them."""
    before: Tensor
    """Their features at the start."""
    sae: SparseAutoencoder

    @classmethod
    @torch.no_grad()
    def start(
        cls, encoder: nn.Module, images: Images, indices: Indices, sae: SparseAutoencoder, device: torch.device | str
    ) -> "DriftWatch":
        """Of the first images at some positions."""
        batch = next(batches(images, indices[:WATCHED], WATCHED, device=device))
        return cls(batch.images, frozen(encoder).to(device)(batch.images).float(), sae.to(device))

    @torch.no_grad()
    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """What `DriftMeter` measures, as `drift/NAME`; the encoder is left in eval mode."""
        meter = DriftMeter(self.sae)
        meter.update(self.before, encoder.eval()(self.images).float())
        return {f"drift/{name}": value for name, value in meter.result().items()}


def _linear_cka(sums: Mapping[str, Tensor], count: int) -> float:
    """|X'Y|^2 / (|X'X| |Y'Y|) of centred features (Kornblith et al. 2019, arXiv:1905.00414, eq. 5), in Frobenius norms.

    NaN if an encoder gives all images the same features.
    """

    def norm(a: str, b: str) -> Tensor:
        return (sums[a + b] - torch.outer(sums[a], sums[b]) / count).norm()

    return (norm("x", "y").square() / (norm("x", "x") * norm("y", "y"))).item()
