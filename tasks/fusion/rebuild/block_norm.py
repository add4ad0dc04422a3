"""Normalisation over units in a fused network: each member's part on its own.

A layer norm over the fused units would mix the statistics of members. Here every block (one per member; one per member
and channel group for group norm) has its own mean and variance, over the fused units that its member takes part in. A
unit that only one member has is normalised by that member's statistics, a merged unit by those of its members, mixed
in their shares: exact at alpha = 1, for all weight on one member, and for equal members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.fusion.unit_map import UnitMaps
from amalgam.tasks.tracing.layout import Layout


@dataclass(frozen=True)
class NormBlocks:
    """Which fused entries each block is made of, and which blocks each entry is normalised by."""

    membership: Tensor
    """(blocks, entries): weight of each entry in the block's mean; rows sum to 1."""
    shares: Tensor
    """(blocks, entries): weight of each block in the entry's statistics; columns sum to 1."""


def blocks_of(layout: Layout, maps: UnitMaps, num_channel_groups: int = 1) -> NormBlocks:
    """The blocks of an axis. Raises ValueError if entries that all members share lie on it."""
    num_members = len(next(iter(maps.values())))
    total = len(layout.order)
    counts: list[list[Tensor]] = [[] for _ in range(num_members * num_channel_groups)]
    shares: list[list[Tensor]] = [[] for _ in range(num_members * num_channel_groups)]
    for segment in layout.segments:
        if segment.group is None:
            raise ValueError("a norm over both units and entries that members share is not supported")
        channel_group = torch.from_numpy(segment.entries * num_channel_groups // total)
        for member, unit_map in enumerate(maps[segment.group]):
            for number in range(num_channel_groups):
                inside = (channel_group == number).double()
                if len(inside) != unit_map.merge.shape[1]:
                    inside = inside[:1].expand(unit_map.merge.shape[1], -1)
                place = member * num_channel_groups + number
                counts[place].append((unit_map.unmerge.T @ inside).flatten())
                shares[place].append((unit_map.merge @ inside).flatten())
    membership = torch.stack([torch.cat(parts) for parts in counts])
    return _distinct(membership / membership.sum(1, keepdim=True), torch.stack([torch.cat(p) for p in shares]))


def _distinct(membership: Tensor, shares: Tensor) -> NormBlocks:
    """Members that all units were merged of have the same statistics: one block for them."""
    rows, inverse = torch.unique(membership, dim=0, return_inverse=True)
    return NormBlocks(rows, torch.zeros_like(rows).index_add_(0, inverse, shares))


class BlockNorm(nn.Module):
    """Layer, group or RMS norm, block by block.

    `axis` is where units lie; `over` are further axes that the statistics are taken over (pixels in a group norm).
    """

    membership: Tensor
    shares: Tensor

    def __init__(
        self,
        blocks: NormBlocks,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        axis: int,
        over: Sequence[int] = (),
        is_centred: bool = True,
    ) -> None:
        super().__init__()
        dtype = weight.dtype if weight is not None else torch.get_default_dtype()
        self.register_buffer("membership", blocks.membership.to(dtype))
        self.register_buffer("shares", blocks.shares.to(dtype))
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.eps, self.axis, self.over, self.is_centred = eps, axis, tuple(over), is_centred

    def forward(self, x: Tensor) -> Tensor:
        """The normalised value, of the shape of `x`."""
        values = x.movedim(self.axis, -1)
        if self.is_centred:
            # Any shift leaves the result as it is; this one keeps the difference of squares below accurate.
            values = values - self._over(values.mean(-1, keepdim=True))
        squares = self._over(F.linear(values.square(), self.membership))
        means = self._over(F.linear(values, self.membership)) if self.is_centred else torch.zeros_like(squares)
        # y = sum_b share_b (x - mean_b) inverse_b = x sum_b share_b inverse_b - sum_b share_b mean_b inverse_b.
        inverse = (squares - means.square() + self.eps).rsqrt()
        scale, offset = F.linear(inverse, self.shares.T), F.linear(means * inverse, self.shares.T)
        result = values * scale - offset
        if self.weight is not None:
            result = result * self.weight
        if self.bias is not None:
            result = result + self.bias
        return result.movedim(-1, self.axis)

    def _over(self, values: Tensor) -> Tensor:
        return values.mean(self.over, keepdim=True) if self.over else values

    def extra_repr(self) -> str:
        return f"blocks={len(self.membership)}, entries={self.membership.shape[1]}, eps={self.eps}, axis={self.axis}"
