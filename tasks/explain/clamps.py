"""Whether a latent causes what is attributed to it: reset it, decode, add what is unexplained, classify again.

Clamping latent j of one image from s_j to v moves its feature by (v - s_j) d_j and nothing else, so the logits of every
clamp follow from those of the image without another decoding. The head normalises what it reads, as it always does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.explain.significance import mcnemar, paired_interval
from amalgam.tasks.scoring.sums import Sums

TARGETS = ("before", "zero")
"""What a latent is clamped to: its activation before fine-tuning, or 0."""
PIECES = ("before", "after", "latents back", "error back", "features back", "head back")
"""The classifiers, and the one after fine-tuning with a piece of it reset for every image."""
LOGITS_AT_ONCE = 2**22  # clamps x classes in memory at once: 32 MB


@dataclass(frozen=True)
class ClampTable:
    """What clamping each latent does to the predictions after fine-tuning, (num_latents,)."""

    num_images: int
    newly_correct: Tensor
    """Images that become correctly classified."""
    newly_incorrect: Tensor
    """Images that become misclassified."""
    restored: Tensor
    """Flipped images whose prediction is again the one before fine-tuning."""

    @property
    def accuracy_change(self) -> Tensor:
        """Accuracy with the latent clamped, less the accuracy without."""
        return (self.newly_correct - self.newly_incorrect) / self.num_images

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Ends of the 95 % interval of `accuracy_change`."""
        return paired_interval(self.newly_correct, self.newly_incorrect, self.num_images)

    @property
    def p(self) -> Tensor:
        """McNemar's mid-p value of the change of accuracy."""
        return mcnemar(self.newly_correct, self.newly_incorrect)


@dataclass
class ClampMeter:
    """Counts from which a `ClampTable` for each of `TARGETS` and the accuracies of all `PIECES` follow."""

    by: Comparison
    num_domains: int
    sums: Sums = field(default_factory=Sums)

    def update(self, compared: Compared) -> None:
        """Clamp every latent of every image of a batch, one at a time, and then whole pieces."""
        for target in TARGETS:
            for rows, latents, predicted in clamped(compared, target):
                self._count(target, compared, rows, latents, predicted)
        hits = {piece: (predicted == compared.labels).double() for piece, predicted in pieces(compared).items()}
        images = torch.ones_like(compared.labels, dtype=torch.float64)
        self.sums.add_by(compared.domains, self.num_domains, hits | {"images": images})
        self.sums.count(len(compared))

    def result(self, target: str) -> ClampTable:
        """The table for one of `TARGETS`. Raises ValueError if there were no images."""
        self.sums.require("images to clamp latents in")
        none = self.by.atoms.new_zeros(self.by.num_latents)
        counts = (self.sums.get(f"{target} {name}", none) for name in ("newly_correct", "newly_incorrect", "restored"))
        return ClampTable(self.sums.num_examples, *counts)

    def accuracies(self) -> dict[str, Tensor]:
        """Accuracy of each of `PIECES` in each domain and, last, over all images, (domains + 1,)."""
        self.sums.require("images to clamp latents in")
        sums = {
            name: torch.cat([self.sums[name], self.sums[name].sum(0, keepdim=True)]) for name in (*PIECES, "images")
        }
        return {piece: sums[piece] / sums["images"].clamp(min=1) for piece in PIECES}

    def _count(self, target: str, compared: Compared, rows: Tensor, latents: Tensor, predicted: Tensor) -> None:
        labels, (old, new) = compared.labels[rows], (found[rows] for found in compared.predicted)
        is_right, was_right = predicted == labels, new == labels
        found = {
            "newly_correct": is_right & ~was_right,
            "newly_incorrect": was_right & ~is_right,
            "restored": (old != new) & (predicted == old),
        }
        amounts = {f"{target} {name}": hits.double() for name, hits in found.items()}
        self.sums.add_by(latents, self.by.num_latents, amounts)


def clamped(compared: Compared, target: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, latents and the classes predicted after fine-tuning, for every single latent that clamping moves.

    Each of the three is (clamps,), a part of all at a time.
    """
    by, active = compared.by, compared.active
    shift = -active.change if target == "before" else -active.after
    scores = compared.z1 @ by.weights[1].T
    for part in shift.nonzero().flatten().split(max(1, LOGITS_AT_ONCE // by.num_classes)):
        rows, latents, moved = active.images[part], active.latents[part], shift[part]
        # |z + v d|^2 = 1 + 2 v <z, d> + v^2 |d|^2, by whose root the head divides its features.
        square = 1 + 2 * moved * compared.overlap[part] + moved.square() * by.squares[latents]
        logits = (scores[rows] + moved[:, None] * by.pulls[1][latents]) / square.clamp(min=1e-24).sqrt()[:, None]
        yield rows, latents, (logits + by.biases[1]).argmax(1)


def pieces(compared: Compared) -> dict[str, Tensor]:
    """The classes predicted by each of `PIECES`, (batch,)."""
    (w0, w1), (b0, b1) = compared.by.weights, compared.by.biases

    def predict(features: Tensor) -> Tensor:
        return linear(normalize(features, dim=-1), w1, b1).argmax(1)

    before, after = compared.predicted
    return {
        "before": before,
        "after": after,
        "latents back": predict(compared.z1 - compared.explained),
        "error back": predict(compared.z0 + compared.explained),
        "features back": predict(compared.z0),
        "head back": linear(compared.z1, w0, b0).argmax(1),
    }
