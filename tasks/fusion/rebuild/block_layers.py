"""Layers that store and compute their blocks, and no structural zeros.

A fused layer's units are the shared ones, then those of each member alone; a unit of one member never reads one of
another. With columns in the same order the weight is three dense products on slices, none of which is copied:

    every unit reads the shared inputs | shared units read all other inputs | each member's units read its own inputs

The last is one batched product (linear) or one grouped convolution where members have equally many units alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling

CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True)
class Segments:
    """How many consecutive units (or entries of an axis) are shared, and how many belong to each member alone."""

    shared: int
    alone: tuple[int, ...]

    @classmethod
    def of(cls, coupling: Coupling) -> "Segments | None":
        """Those of a coupling; None unless units that all members share come first, then those of each in turn."""
        contains = coupling.contains()
        shared = int(contains.all(0).sum()) if len(contains) > 1 else 0
        alone = tuple(int(row[shared:].sum()) for row in contains)
        expected = torch.zeros_like(contains)
        expected[:, :shared] = True
        for member, (start, count) in enumerate(zip(_starts(shared, alone), alone, strict=True)):
            expected[member, start : start + count] = True
        return cls(shared, alone) if torch.equal(expected, contains) else None

    def times(self, repeat: int) -> "Segments":
        """The same for an axis with `repeat` entries per unit."""
        return Segments(self.shared * repeat, tuple(count * repeat for count in self.alone))

    @property
    def blocks(self) -> list[slice]:
        """The entries of each member alone."""
        return [slice(s, s + n) for s, n in zip(_starts(self.shared, self.alone), self.alone, strict=True)]


class BlockLayer(nn.Module):
    """A linear or convolution layer without its structural zeros; inputs and outputs are those of the dense layer."""

    def __init__(self, dense: nn.Module, rows: Segments, columns: Segments) -> None:
        super().__init__()
        weight, bias = dense.weight.detach(), dense.bias  # type: ignore[operator]
        assert isinstance(weight, Tensor)
        self.rows, self.columns = rows, columns
        own = [weight[r, c] for r, c in zip(rows.blocks, columns.blocks, strict=True)]
        self.from_shared = nn.Parameter(weight[:, : columns.shared].clone())
        self.to_shared = nn.Parameter(weight[: rows.shared, columns.shared :].clone())
        self.is_even = len({tuple(block.shape) for block in own}) == 1
        self.own = nn.ParameterList([torch.stack(own)] if self.is_even else [block.clone() for block in own])
        self.bias = nn.Parameter(bias.detach().clone()) if isinstance(bias, Tensor) else None

    def dense_weight(self) -> Tensor:
        """The weight of the dense layer, zeros included."""
        own = list(self.own[0]) if self.is_even else list(self.own)
        size = (len(self.from_shared), self.columns.shared + sum(self.columns.alone), *self.from_shared.shape[2:])
        weight = self.from_shared.new_zeros(size)
        weight[:, : self.columns.shared] = self.from_shared
        weight[: self.rows.shared, self.columns.shared :] = self.to_shared
        for r, c, block in zip(self.rows.blocks, self.columns.blocks, own, strict=True):
            weight[r, c] = block
        return weight

    def dense(self) -> nn.Module:
        """The dense layer that computes the same."""
        weight = self.dense_weight()
        layer = self._like(weight)
        layer.register_parameter("weight", nn.Parameter(weight))
        layer.register_parameter("bias", self.bias)
        return layer

    def _like(self, weight: Tensor) -> nn.Module:
        """A dense layer without values, whose weight has that shape."""
        raise NotImplementedError

    def _accumulated(self, x: Tensor, axis: int) -> Tensor:
        """The three products, added in place into the output of the first."""
        shared, rest = x.split([self.columns.shared, x.shape[axis] - self.columns.shared], axis)
        if not self.columns.shared and not self.rows.shared:
            return self._alone(rest, self.bias)
        out = self._product(shared, self.from_shared, self.bias) if self.columns.shared else self._empty(rest, axis)
        if self.rows.shared and sum(self.columns.alone):
            out.narrow(axis, 0, self.rows.shared).add_(self._product(rest, self.to_shared, None))
        if sum(self.rows.alone) and sum(self.columns.alone):
            out.narrow(axis, self.rows.shared, sum(self.rows.alone)).add_(self._alone(rest, None))
        return out

    def _empty(self, rest: Tensor, axis: int) -> Tensor:
        example = self._product(rest, self.to_shared, None)
        shape = [len(self.from_shared) if i == axis % example.ndim else n for i, n in enumerate(example.shape)]
        aligned = [-1 if i == axis % example.ndim else 1 for i in range(example.ndim)]
        zeros = example.new_zeros(shape)
        return zeros if self.bias is None else zeros + self.bias.reshape(aligned)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _alone(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """What the members' own units make of the members' own inputs."""
        raise NotImplementedError


class BlockLinear(BlockLayer):
    """Units last."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        return self._accumulated(x, -1)

    def _like(self, weight: Tensor) -> nn.Module:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta")

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _alone(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.is_even:
            own = self.own[0]
            out = torch.einsum("...ki,koi->...ko", x.unflatten(-1, (own.shape[0], own.shape[2])), own).flatten(-2)
        else:
            parts = x.split(list(self.columns.alone), -1)
            out = torch.cat([F.linear(part, block) for part, block in zip(parts, self.own, strict=True)], -1)
        return out if bias is None else out + bias


class BlockConvolution(BlockLayer):
    """Channels second."""

    def __init__(self, dense: nn.modules.conv._ConvNd, rows: Segments, columns: Segments) -> None:
        super().__init__(dense, rows, columns)
        self.geometry: tuple[Any, ...] = (dense.stride, dense.padding, dense.dilation)
        self.convolve: Any = next(function for kind, function in CONVOLUTIONS.items() if isinstance(dense, kind))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, ...) of (batch, inputs, ...)."""
        return self._accumulated(x, 1)

    def _like(self, weight: Tensor) -> nn.Module:
        kind: Any = next(kind for kind, function in CONVOLUTIONS.items() if function is self.convolve)
        outputs, inputs, *lengths = weight.shape
        biased = {"bias": self.bias is not None, "device": "meta"}
        layer: nn.Module = kind(inputs, outputs, tuple(lengths), *self.geometry, **biased)
        return layer

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.convolve(x, weight, bias, *self.geometry)

    def _alone(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.is_even:
            own = self.own[0]
            return self.convolve(x, own.flatten(0, 1), bias, *self.geometry, groups=len(own))
        parts = x.split(list(self.columns.alone), 1)
        out = torch.cat([self._product(part, block, None) for part, block in zip(parts, self.own, strict=True)], 1)
        return out if bias is None else out + bias.reshape(-1, *[1] * (out.ndim - 2))


def _starts(shared: int, alone: Sequence[int]) -> list[int]:
    """Where each member's own units begin."""
    starts = [shared]
    for count in alone[:-1]:
        starts.append(starts[-1] + count)
    return starts
