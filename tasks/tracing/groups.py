"""From tied numbers to groups: units that appear in the same places are exchangeable."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.fx import Node

from amalgam.tasks.tracing.flow import Flow
from amalgam.tasks.tracing.layout import OUTPUT, Layout, arrange
from amalgam.tasks.tracing.nodes import shape_of
from amalgam.tasks.tracing.program import Program
from amalgam.tasks.tracing.units import FIXED, ZERO, Carrier


@dataclass(frozen=True)
class Grouping:
    """Which group, and which unit of it, every number belongs to."""

    names: tuple[str, ...]
    """Groups in the order in which they are first written; the network's outputs are among them."""
    sizes: np.ndarray
    group_of: np.ndarray
    """Group of each resolved number, -1 for entries that all members share."""
    unit_of: np.ndarray
    roots: np.ndarray
    """The number that stands for each number's class."""
    isolated: frozenset[str] = frozenset()
    """Groups of values that each member has once, and that are never merged."""

    def layout(self, ids: np.ndarray) -> Layout | None:
        """The layout of an axis with these numbers; None if all members share all of it."""
        roots = self.roots[ids]
        groups = self.group_of[roots]
        if (groups < 0).all():
            return None
        return arrange(groups, self.unit_of[roots], self.sizes, self.names)

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the groups of outputs."""
        return frozenset(name for name in self.names if name == OUTPUT or name.startswith(f"{OUTPUT}["))

    def has_outputs(self, ids: np.ndarray) -> bool:
        """Whether any of the numbers stands for one of the network's outputs."""
        groups = np.unique(self.group_of[self.roots[ids]])
        return any(self.names[group] in self.outputs for group in groups[groups >= 0])

    def axes_of(self, carrier: Carrier) -> tuple[int, ...]:
        """Axes along which units lie, now that everything is tied."""
        ids = self.roots[carrier.ids]
        if (self.group_of[ids] < 0).all():
            return ()
        varying = tuple(a for a in carrier.axes if (ids != ids.take([0], a)).any())
        return varying or carrier.axes[:1]


@dataclass(frozen=True)
class Traced:
    """A walked program."""

    flow: Flow
    grouping: Grouping
    outputs: list[Node]
    memo: dict[Hashable, Any] = field(default_factory=dict)
    """What later stages found out about the program, once."""

    @property
    def program(self) -> Program:
        return self.flow.program

    def layouts(self, node: Node) -> dict[int, Layout] | None:
        """Axis -> layout wherever units lie along an axis of a value; None if units lie along several axes at once."""
        found = {}
        for carrier in self.flow.of(node):
            axes = self.grouping.axes_of(carrier)
            if len(axes) > 1:
                return None
            for axis in axes:
                line = np.moveaxis(carrier.ids, axis, 0).reshape(carrier.ids.shape[axis], -1)[:, 0]
                layout = self.grouping.layout(np.broadcast_to(line, (shape_of(node)[axis],)))
                if layout is not None:
                    found[axis] = layout
        return found


def grouping(flow: Flow, outputs: list[Node]) -> Grouping:
    """The groups of a walked program. Raises ValueError for units that are tied to the network's input."""
    everything = flow.units.find(np.arange(len(flow.units)))
    if flow.beside_inputs:
        # What is added to the input at the very end is an output: every member has it, as it has the input.
        found = _output_roots(flow, outputs, everything)
        for ids in flow.beside_inputs:
            flow.units.tie(ids[~np.isin(everything[ids], list(found))], np.array(FIXED))
        everything = flow.units.find(np.arange(len(flow.units)))
    signature = _signatures(flow, everything)
    order: dict[tuple[int, bool], list[int]] = {}
    names: dict[tuple[int, bool], str] = {}
    out_roots = _output_roots(flow, outputs, everything)
    for node, ids, _ in [*flow.writes, *_members(flow)]:
        for root in dict.fromkeys(everything[ids].ravel().tolist()):
            if root <= ZERO:
                continue
            key = (int(signature[root]), root in out_roots)
            if key not in names:
                names[key] = _name(flow, node, key[1], set(names.values()))
            order.setdefault(key, []).append(root)
    group_of, unit_of = np.full(len(everything), -1), np.zeros(len(everything), dtype=int)
    members = [list(dict.fromkeys(roots)) for roots in order.values()]
    for number, roots in enumerate(members):
        group_of[roots], unit_of[roots] = number, np.arange(len(roots))
    per_member = flow.units.find(np.array(sorted(flow.per_member), dtype=int))
    isolated = {names[key] for key, roots in zip(order, members, strict=True) if roots[0] in per_member}
    return Grouping(
        tuple(names[key] for key in order), np.array([len(r) for r in members]), group_of, unit_of, everything,
        frozenset(isolated),
    )  # fmt: skip


def _signatures(flow: Flow, everything: np.ndarray) -> np.ndarray:
    """A sum of random numbers per class, one for every axis of every value that the class appears on."""
    # Classes on the same axes equally often have equal sums; any others collide with probability about 2^-63.
    generator = np.random.default_rng(0)
    total = np.zeros(len(everything), dtype=np.uint64)
    for carriers in flow.carriers.values():
        for carrier in carriers:
            number = generator.integers(1, 2**63, dtype=np.uint64)
            np.add.at(total, everything[carrier.ids].ravel(), number)
    return total


def _members(flow: Flow) -> list[tuple[Node, np.ndarray, str]]:
    """Reductions over units, as writers of what each member has once."""
    found = []
    for node, carriers in flow.carriers.items():
        for carrier in carriers:
            if carrier.ids.size == 1 and int(carrier.ids.ravel()[0]) in flow.per_member:
                found.append((node, carrier.ids.ravel(), ""))
    return found


def _output_roots(flow: Flow, outputs: list[Node], everything: np.ndarray) -> set[int]:
    found: set[int] = set()
    for node in outputs:
        for carrier in flow.of(node):
            found |= set(everything[carrier.ids].ravel().tolist())
    return found - {FIXED, ZERO}


def _name(flow: Flow, node: Node, is_output: bool, taken: set[str]) -> str:
    """A group's name: that of the first layer that writes it."""
    own = flow.tensors.get(node, node.name)
    stem = OUTPUT if is_output else own.removesuffix(".weight")
    if not is_output and (stem == OUTPUT or stem.startswith(f"{OUTPUT}[")):
        stem = f"{stem}_"
    number, name = 1, stem
    while name in taken:
        name, number = f"{stem}[{number}]", number + 1
    return name
