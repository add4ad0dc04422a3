"""Which latents are active in which images, under two encoders: what every statistic of an explanation is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amalgam.tasks.sae.codes import Codes

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")


@dataclass(frozen=True)
class Active:
    """One entry for each image and latent that is active in it before or after, ordered by image; each (entries,)."""

    images: Tensor
    """Numbers of the images."""
    latents: Tensor
    before: Tensor
    """Activations before, 0 where the latent is active only after."""
    after: Tensor
    num_images: int
    num_latents: int

    @classmethod
    def of(cls, before: Codes, after: Codes) -> "Active":
        """The entries of the codes (batch, K) of one batch."""
        keys, number = [], before.num_latents
        for codes in (before, after):
            rows = torch.arange(len(codes.indices), device=codes.indices.device)[:, None]
            keys.append((rows * number + codes.indices)[codes.active])
        union, places = torch.unique(torch.cat(keys), return_inverse=True)
        values = before.values.new_zeros(2, len(union))
        values[0, places[: len(keys[0])]] = before.values[before.active]
        values[1, places[len(keys[0]) :]] = after.values[after.active]
        return cls(union // number, union % number, values[0], values[1], len(before.indices), number)

    @classmethod
    def joined(cls, batches: Sequence["Active"]) -> "Active":
        """The entries of a stream, its images numbered through."""
        starts = torch.tensor([0, *(batch.num_images for batch in batches)]).cumsum(0).tolist()
        images = [batch.images + start for batch, start in zip(batches, starts, strict=False)]
        latents, before, after = (
            torch.cat([getattr(batch, name) for batch in batches]) for name in ("latents", "before", "after")
        )
        return cls(torch.cat(images), latents, before, after, starts[-1], batches[0].num_latents)

    @property
    def change(self) -> Tensor:
        """Activation after less that before."""
        return self.after - self.before

    def side(self, side: Side) -> Tensor:
        """The activations of one encoder."""
        return self.before if side == "before" else self.after

    def dense(self, values: Tensor) -> Tensor:
        """Values of the entries as a matrix (images, num_latents), 0 elsewhere."""
        zeros = values.new_zeros(self.num_images, self.num_latents)
        return zeros.index_put((self.images, self.latents), values)

    def sums(self, values: Tensor, groups: Tensor | None = None, num_groups: int = 1) -> Tensor:
        """Sums of values by the group of their image, groups (images,), and by latent: (num_groups, num_latents)."""
        places = self.latents if groups is None else self.places(groups)
        zeros = values.new_zeros(num_groups * self.num_latents)
        return zeros.index_add(0, places, values).reshape(num_groups, self.num_latents)

    def places(self, groups: Tensor) -> Tensor:
        """Where each entry stands in a flat (num_groups, num_latents), by the group of its image, groups (images,)."""
        return groups[self.images] * self.num_latents + self.latents

    def of_images(self, images: Tensor) -> "Active":
        """The entries of some images, increasing numbers, which are counted anew."""
        places = self.images.new_full((self.num_images,), -1)
        places[images] = torch.arange(len(images), device=images.device)
        kept = (renamed := places[self.images]) >= 0
        latents, before, after = (part[kept] for part in (self.latents, self.before, self.after))
        return Active(renamed[kept], latents, before, after, len(images), self.num_latents)
