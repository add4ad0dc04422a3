"""The walk over a program: which carriers every value has, and what has been learned on the way."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch.fx import Node

from amalgam.tasks.tracing.nodes import rank_of, shape_of
from amalgam.tasks.tracing.program import Program
from amalgam.tasks.tracing.units import FIXED, Carrier, Ids, Units

Carriers = list[Carrier]


@dataclass
class Flow:
    """What is known while walking over a program."""

    program: Program
    units: Units = field(default_factory=Units)
    carriers: dict[Node, Carriers] = field(default_factory=dict)
    """The carriers of every tensor seen so far, at most one for each axis."""
    parts: dict[Node, list[Carriers]] = field(default_factory=dict)
    """Those of operations that return several tensors."""
    reads: set[tuple[Node, int]] = field(default_factory=set)
    """(parameter, axis) that consume units."""
    writes: list[tuple[Node, Ids, str]] = field(default_factory=list)
    """(weight, numbers along the axis that it makes, place) of every layer, in the order of computation."""
    means: set[Node] = field(default_factory=set)
    variances: set[Node] = field(default_factory=set)
    nonlinear: list[tuple[Ids, Node]] = field(default_factory=list)
    """Units that went through an operation for which the mean of results is not the result of the mean."""
    beside_inputs: list[Ids] | None = None
    """Units that meet the network's input entry by entry, where that is settled after the walk: outputs may."""
    per_member: set[int] = field(default_factory=set)
    """Numbers of values that each member has once: means and norms over its units."""

    @cached_property
    def tensors(self) -> dict[Node, str]:
        """`Program.tensors`, once the walk is over."""
        return self.program.tensors()

    def own(self, node: Node) -> Carriers:
        """A unit of its own for every entry along every axis: what a parameter starts with."""
        return [axis_carrier(self.units.new(length), axis, rank_of(node)) for axis, length in enumerate(shape_of(node))]

    def of(self, node: Any) -> Carriers:
        return self.carriers.get(node, [])

    def along(self, node: Any, axis: int) -> Carrier | None:
        """The carrier of a value that varies along an axis, if any."""
        axis %= rank_of(node)
        return next((carrier for carrier in self.of(node) if axis in carrier.axes), None)

    def line(self, node: Any, axis: int) -> Ids:
        """Numbers along one axis, (length,): `FIXED` where nothing is carried; entries that share it are tied."""
        carrier, axis = self.along(node, axis), axis % rank_of(node)
        if carrier is None:
            return np.full(shape_of(node)[axis], FIXED)
        table = np.moveaxis(carrier.ids, axis, 0).reshape(carrier.ids.shape[axis], -1)
        self.units.tie(table, table[:, :1])
        return np.broadcast_to(table[:, 0], (shape_of(node)[axis],))

    def fix(self, node: Any, *axes: int) -> None:
        """State that entries along the axes mean the same in every member."""
        for axis in axes:
            if carrier := self.along(node, axis):
                self.units.tie(carrier.ids, np.array(FIXED))

    def fix_beside(self, ids: Ids, other: Node) -> None:
        """State that units meet a value without units, `other`."""
        if self.beside_inputs is not None and not self.is_static(other):
            self.beside_inputs.append(ids)
        else:
            self.units.tie(ids, np.array(FIXED))

    def is_free(self, node: Any, axis: int) -> bool:
        """Whether units of members lie along an axis."""
        carrier = self.along(node, axis)
        return carrier is not None and self.units.is_free(carrier.ids)

    def free_axes(self, node: Any) -> list[int]:
        return [axis for axis in range(rank_of(node)) if self.is_free(node, axis)]

    def is_static(self, node: Any) -> bool:
        return node in self.program.static


def axis_carrier(ids: Ids, axis: int, rank: int) -> Carrier:
    """A carrier along one axis of a value."""
    axis %= rank
    return Carrier((axis,), np.asarray(ids).reshape([-1 if i == axis else 1 for i in range(rank)]))


def moved(carrier: Carrier, axes: dict[int, int], rank: int) -> Carrier | None:
    """The carrier after its axes went elsewhere (old -> new), as in a permutation; None if one is gone."""
    if not set(carrier.axes) <= set(axes):
        return None
    order = sorted(carrier.axes, key=lambda axis: axes[axis])
    values = np.moveaxis(carrier.ids, order, range(len(order))).reshape([carrier.ids.shape[a] for a in order])
    shape = [1] * rank
    for axis in order:
        shape[axes[axis]] = carrier.ids.shape[axis]
    return Carrier(tuple(axes[a] for a in order), values.reshape(shape))


def aligned(carrier: Carrier, rank: int) -> Carrier:
    """The carrier of an operand seen from a result of higher rank (broadcasting aligns the last axes)."""
    shift = rank - carrier.ids.ndim
    return Carrier(tuple(a + shift for a in carrier.axes), carrier.ids.reshape((1,) * shift + carrier.ids.shape))


def connected(carriers: Carriers) -> list[Carriers]:
    """Carriers in classes that share axes, directly or through others."""
    classes: list[Carriers] = []
    for carrier in carriers:
        touching = [c for c in classes if any(set(carrier.axes) & set(other.axes) for other in c)]
        classes = [c for c in classes if c not in touching] + [[carrier, *(o for c in touching for o in c)]]
    return classes
