"""Why a class logit changed: exactly so much by each latent, by what the autoencoder misses, and by the head.

change of logit c = sum_j (s_1 - s_0)_j W_0c.d_j  +  W_0c.(e_1 - e_0)  +  (W_1c - W_0c).z_1 + b_1c - b_0c
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from amalgam.tasks.explain.active import Active
from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.scoring.sums import Sums


@dataclass(frozen=True)
class LogitChange:
    """Changes of logits, in parts that add up to the whole; all of one shape."""

    latents: Tensor
    """Through latents that came, went or changed in strength."""
    error: Tensor
    """Through what the autoencoder does not explain."""
    head: Tensor
    """Through other weights and biases of the head."""

    @property
    def total(self) -> Tensor:
        """The whole change."""
        return self.latents + self.error + self.head

    def of(self, classes: Tensor) -> "LogitChange":
        """Of parts (batch, num_classes), those of one class of each image, (batch,)."""
        return LogitChange(*(part.gather(1, classes[:, None]).squeeze(1) for part in self._all))

    def __sub__(self, other: "LogitChange") -> "LogitChange":
        return LogitChange(*(ours - theirs for ours, theirs in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.latents, self.error, self.head


def decompose(compared: Compared) -> LogitChange:
    """The change of every class logit of every image, (batch, num_classes); latents are summed."""
    (w0, w1), (b0, b1) = compared.by.weights, compared.by.biases
    head = compared.z1 @ (w1 - w0).T + (b1 - b0)
    return LogitChange(compared.explained @ w0.T, compared.error_change @ w0.T, head)


def contributions(by: Comparison, active: Active, classes: Tensor) -> Tensor:
    """What active latents add to the change of one class logit of their image, classes (images,): (entries,)."""
    return active.change * by.pulls[0][active.latents, classes[active.images]]


NAMES = ("latents", "error", "head")
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Shares:
    """How the change of the true-class logit divides up, in each domain and, last, over all images."""

    change: Tensor
    """Mean change of the true-class logit, (domains + 1,)."""
    mean: dict[str, Tensor]
    """Mean of each part, signed; they add up to `change`."""
    size: dict[str, Tensor]
    """Mean of the absolute value of each part."""
    fit: Tensor
    """Share of the sum of squares of the changes that the latents alone account for; 1 is all, below 0 misleads."""

    def share(self, part: str) -> Tensor:
        """The absolute value of one part, as a share of those of all, (domains + 1,)."""
        return self.size[part] / torch.stack([*self.size.values()]).sum(0).clamp(min=TINY)


@dataclass
class SharesMeter:
    """Sums from which `Shares` follow."""

    num_domains: int
    sums: Sums = field(default_factory=Sums)

    def update(self, compared: Compared, parts: LogitChange) -> None:
        """Count a batch, given its decomposition."""
        true = parts.of(compared.labels)
        values = {"images": torch.ones_like(true.total), "square": true.total.square()}
        values |= {"miss": (true.total - true.latents).square()}
        for name in NAMES:
            values |= {name: getattr(true, name), f"|{name}|": getattr(true, name).abs()}
        self.sums.add_by(compared.domains, self.num_domains, values)
        self.sums.count(len(compared))

    def result(self) -> Shares:
        """The shares. Raises ValueError if there were no images."""
        self.sums.require("images to explain a change on")
        sums = {name: torch.cat([value, value.sum(0, keepdim=True)]) for name, value in self.sums.items()}
        count = sums["images"].clamp(min=1)
        mean = {name: sums[name] / count for name in NAMES}
        size = {name: sums[f"|{name}|"] / count for name in NAMES}
        squares = sums["square"]
        fit = torch.where(squares > 0, 1 - sums["miss"] / squares.clamp(min=TINY), 1.0)
        return Shares(sum(mean.values(), torch.zeros_like(count)), mean, size, fit)
