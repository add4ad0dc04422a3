"""Images whose predicted class changed, and which latents pushed the new class past the old one.

The margin of a flip is the logit of the new class less that of the old one: it rises from below zero to above, and its
rise has the parts of `decomposition`.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amalgam.tasks.explain.comparison import Compared
from amalgam.tasks.explain.decomposition import LogitChange, contributions
from amalgam.tasks.scoring.sums import Sums

KINDS = ("right to wrong", "wrong to right", "wrong to wrong")
LEADING = 3  # latents kept for every flip
EXAMPLES = 6  # images kept of every kind of flip and leading latent


@dataclass(frozen=True)
class Flips:
    """The flipped images of a batch, all (flips,) unless stated otherwise."""

    rows: Tensor
    """Which of the batch."""
    old: Tensor
    """Class predicted before."""
    new: Tensor
    """Class predicted after."""
    kinds: Tensor
    """Positions in `KINDS`."""
    margin_before: Tensor
    """Below zero, or zero."""
    rise: LogitChange
    """How much the margin rose, in its parts."""
    leading: Tensor
    """Latents with the largest parts of the rise, (flips, at most LEADING)."""
    leading_parts: Tensor
    """Their parts."""

    @property
    def share(self) -> Tensor:
        """The latents' part of the rise as a share of it; above 1 where the other parts counteracted it."""
        return self.rise.latents / self.rise.total

    @property
    def explained(self) -> Tensor:
        """Whether latents make up more than half of the rise."""
        return self.rise.latents > self.rise.total / 2

    @property
    def alone(self) -> Tensor:
        """Whether the latents would have flipped the prediction on their own."""
        return self.margin_before + self.rise.latents > 0


def flips_of(compared: Compared, parts: LogitChange) -> Flips:
    """The images of a batch whose prediction changed, given the decomposition of the batch."""
    old, new = compared.predicted
    rows = (old != new).nonzero().flatten()
    rise = parts.of(new) - parts.of(old)
    flipped = compared.active.of_images(rows)
    pushes = flipped.dense(
        contributions(compared.by, flipped, new[rows]) - contributions(compared.by, flipped, old[rows])
    )
    largest = pushes.topk(min(LEADING, pushes.shape[1]), dim=1)
    margin = compared.logits[0].gather(1, new[:, None]) - compared.logits[0].gather(1, old[:, None])
    was, is_now = old == compared.labels, new == compared.labels
    kinds = torch.where(was, 0, torch.where(is_now, 1, 2))
    return Flips(
        rows,
        old[rows],
        new[rows],
        kinds[rows],
        margin.squeeze(1)[rows],
        LogitChange(rise.latents[rows], rise.error[rows], rise.head[rows]),
        largest.indices,
        largest.values,
    )


@dataclass(frozen=True)
class FlipGroup:
    """Flips of one kind that one latent leads."""

    kind: str
    latent: int
    number: int
    share: float
    """Mean share of the rise that this latent alone makes up."""
    examples: tuple[int, ...]
    """Numbers in the stream of the first such images."""


@dataclass(frozen=True)
class FlipReport:
    """How many predictions changed and what explains it; per kind of flip, (kinds,)."""

    numbers: Tensor
    explained: Tensor
    """Flips in which latents make up more than half of the margin's rise."""
    alone: Tensor
    """Flips that latents would have made on their own."""
    by_domain: Tensor
    """Numbers, (num_domains, kinds)."""
    groups: tuple[FlipGroup, ...]
    """By kind and leading latent, largest first."""

    @property
    def explained_share(self) -> float | None:
        """Share of all flips that latents explain; None without flips."""
        return (self.explained.sum() / self.numbers.sum()).item() if self.numbers.sum() else None

    @property
    def alone_share(self) -> float | None:
        """Share of all flips that latents would have made alone; None without flips."""
        return (self.alone.sum() / self.numbers.sum()).item() if self.numbers.sum() else None


@dataclass
class FlipMeter:
    """Counts from which a `FlipReport` follows; memory grows with kinds and latents, not with images."""

    num_latents: int
    num_domains: int
    sums: Sums = field(default_factory=Sums)
    examples: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def update(self, compared: Compared, flips: Flips) -> None:
        """Count the flips of a batch."""
        kinds = len(KINDS)
        led = flips.kinds * self.num_latents + flips.leading[:, 0]
        share = flips.leading_parts[:, 0] / flips.rise.total
        ones = torch.ones_like(share)
        explained, alone = flips.explained.double(), flips.alone.double()
        self.sums.add_by(flips.kinds, kinds, {"numbers": ones, "explained": explained, "alone": alone})
        self.sums.add_by(
            compared.domains[flips.rows] * kinds + flips.kinds, kinds * self.num_domains, {"domains": ones}
        )
        self.sums.add_by(led, kinds * self.num_latents, {"led": ones, "share": share})
        for group, row in zip(led.tolist(), flips.rows.tolist(), strict=True):
            if len(self.examples[group]) < EXAMPLES:
                self.examples[group].append(self.sums.num_examples + row)
        self.sums.count(len(compared))

    def result(self) -> FlipReport:
        """The report. Raises ValueError if there were no images."""
        self.sums.require("images to look for flips in")
        sums, led = self.sums, self.sums["led"]
        order = led.argsort(descending=True, stable=True)[: int((led > 0).sum())].tolist()
        groups = tuple(
            FlipGroup(
                KINDS[group // self.num_latents],
                group % self.num_latents,
                int(led[group]),
                (sums["share"][group] / led[group]).item(),
                tuple(self.examples[group]),
            )
            for group in order
        )
        by_domain = sums["domains"].reshape(self.num_domains, len(KINDS))
        return FlipReport(sums["numbers"], sums["explained"], sums["alone"], by_domain, groups)
