"""Which units each axis of each parameter carries: the one table that every fusion method reads.

A *unit* is a neuron, a channel, or an attention head. A *group* is a set of units that share an index: the outputs of a
layer, the inputs of the next one, the entries of a batch norm between them, and every place of a residual stream.
`tasks.tracing.trace` makes the table from any module; nothing downstream knows layers by name (Git Re-Basin's
permutation spec, generalised).

A parameter whose axis is a concatenation (a dense block's input, stacked query, key and value) is read as several
*blocks*, each with whole groups on its axes; any other parameter is its own block.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amalgam.tasks.tracing.groups import Traced
from amalgam.tasks.tracing.layout import OUTPUT, Layout

__all__ = ["OUTPUT", "Axes", "Axis", "Blocks", "Part"]


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter that carries the units of a group."""

    group: str
    reads: bool = False
    """True where the axis consumes the group's units (inputs of a layer), False where it makes or rescales them."""
    repeat: int = 1
    """Consecutive entries per unit: the number of pixels where a feature map is flattened into a linear layer."""


@dataclass(frozen=True)
class Part:
    """Where a block lies in its parameter: a number of a segment for each axis, None for the whole axis."""

    parameter: str
    segments: tuple[int | None, ...]


class Blocks(dict[str, Tensor]):
    """A member's tensors, block by block, as `Axes.read` gives them."""


@dataclass(frozen=True)
class Axes:
    """The axes of every parameter and buffer of a network, and its hidden groups in the order of computation."""

    of: Mapping[str, tuple[Axis | None, ...]]
    """Block -> one entry per axis; None where the axis is shared by all members (pixels, kernel taps, the input)."""
    groups: tuple[str, ...]
    """Hidden groups, in the order in which the forward pass first writes them; outputs are not among them."""
    means: frozenset[str] = frozenset()
    """Blocks of running means of units."""
    variances: frozenset[str] = frozenset()
    """Blocks of running variances of units, which merge as standard deviations."""
    outputs: tuple[str, ...] = (OUTPUT,)
    """Groups of the network's outputs: one, or several where it has several heads."""
    isolated: frozenset[str] = frozenset()
    """Groups that are never merged: what each member has once, such as a norm over its units."""
    layouts: Mapping[str, tuple[Layout | None, ...]] = field(default_factory=dict)
    """Parameter -> how units lie along each axis, for parameters that are read in several blocks."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Block -> its place, for those blocks."""
    names: frozenset[str] = frozenset()
    """Names in the state dict of the traced network; empty if those are the blocks."""
    traced: Traced | None = None
    """The operations, and what units do in them: what a network of other widths is rebuilt from."""

    @property
    def fixed(self) -> frozenset[str]:
        """Groups whose units are not up for matching."""
        return frozenset(self.outputs) | self.isolated

    @property
    def heads(self) -> tuple[str, ...]:
        """Groups of the network's outputs, those that each member computes apart included."""
        return (*self.outputs, *sorted(self.traced.grouping.outputs & self.isolated if self.traced else ()))

    def read(self, state: Mapping[str, Tensor]) -> Blocks:
        """A member's blocks, from its state dict. Raises ValueError if names are missing or extra."""
        if isinstance(state, Blocks):
            return state
        self._check_names(state)
        values = self.traced.program.values(state) if self.traced else state
        return Blocks({name: self._block(name, values, state) for name in self.of})

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Number of units of each group (and of the outputs) in a state dict of this architecture.

        Raises ValueError if names are missing or extra, or if two tensors disagree about a group's size.
        """
        blocks = self.read(state)
        sizes: dict[str, tuple[int, str]] = {}
        for name, axes in self.of.items():
            if blocks[name].ndim != len(axes):
                raise ValueError(f"{name} has {blocks[name].ndim} axes, expected {len(axes)}")
            for axis, length in zip(axes, blocks[name].shape, strict=True):
                if axis is None:
                    continue
                size, first = sizes.setdefault(axis.group, (length // axis.repeat, name))
                if size * axis.repeat != length:
                    raise ValueError(
                        f"{name} has {length} entries for the units of {axis.group}, but {first} has {size} units"
                    )
        return {group: size for group, (size, _) in sizes.items()}

    def sizes_of_all(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, tuple[int, ...]]:
        """Hidden group -> units of each member. Raises ValueError as `sizes` does."""
        each = [self.sizes(state) for state in states]
        return {group: tuple(sizes[group] for sizes in each) for group in self.groups}

    def join(self, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters from blocks of any widths, segment after segment."""
        whole = {name: blocks[name] for name in self.of if name not in self.parts}
        return whole | {name: self.join_one(name, blocks) for name in self.layouts}

    def join_masks(self, blocks: Iterable[str], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameter -> what `masks` says of the units along its one axis, for vectors given by their blocks."""
        found = {}
        for block in blocks:
            (axis,) = self.of[block]
            if axis is not None and axis.group in masks:
                found[block] = masks[axis.group].repeat_interleave(axis.repeat)
            elif axis is not None:
                raise ValueError(f"there is no mask for group {axis.group}")
        names = {self.parts[block].parameter if block in self.parts else block for block in found}
        return {name: self.join_one(name, found) for name in names}

    def parameters_of(self, group: str) -> list[tuple[str, int]]:
        """(name, axis index) of every place where the group's units appear."""
        return [(n, i) for n, axes in self.of.items() for i, axis in enumerate(axes) if axis and axis.group == group]

    def reader(self, group: str) -> str:
        """Name of the first parameter that consumes the group's units."""
        return next(n for n, i in self.parameters_of(group) if self.of[n][i].reads)  # type: ignore[union-attr]

    def _block(self, name: str, values: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
        part = self.parts.get(name)
        if part is None:
            return values[name] if name in values else state[name]
        tensor = values[part.parameter]
        for axis, number in enumerate(part.segments):
            if number is not None:
                layout = self.layouts[part.parameter][axis]
                assert layout is not None
                tensor = _segment(tensor, axis, layout, number)
        return tensor

    def join_one(self, name: str, blocks: Mapping[str, Tensor]) -> Tensor:
        """One parameter from its blocks."""
        if name not in self.layouts:
            return blocks[name]
        mine = {part.segments: blocks[block] for block, part in self.parts.items() if part.parameter == name}
        return _stacked(mine, 0, len(self.layouts[name]))

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        expected = self.names or frozenset(self.of)
        outside = self.traced.program.outside if self.traced else frozenset()
        missing, extra = sorted(expected - set(state)), sorted(set(state) - expected - outside)
        if missing or extra:
            parts = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has extra {', '.join(extra[:3])}"] * bool(
                extra
            )
            raise ValueError(f"the network is of another architecture: it {' and '.join(parts)}")


def _segment(tensor: Tensor, axis: int, layout: Layout, number: int) -> Tensor:
    """The entries of one segment, at the traced widths or, where segments lie side by side, at any others."""
    length = tensor.shape[axis]
    if length == len(layout.order):
        entries = torch.from_numpy(layout.segments[number].entries.ravel().copy()).to(tensor.device)
        return tensor.index_select(axis, entries)
    raise ValueError(
        f"several groups of units share an axis of {length} entries, which has {len(layout.order)} in member 0: "
        "members of different widths are supported only where no axis joins groups"
    )


def _stacked(blocks: Mapping[tuple[int | None, ...], Tensor], axis: int, rank: int) -> Tensor:
    if axis == rank:
        (block,) = blocks.values()
        return block
    numbers: Sequence[int | None] = sorted({key[axis] for key in blocks}, key=lambda n: -1 if n is None else n)
    pieces = [_stacked({k: b for k, b in blocks.items() if k[axis] == n}, axis + 1, rank) for n in numbers]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
