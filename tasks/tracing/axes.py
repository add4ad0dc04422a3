"""Which units each axis of each parameter carries: the one table that every fusion method reads.

A *unit* is a neuron or a channel. A *group* is a set of units that share an index: the outputs of a layer, the inputs
of the next one, the entries of a batch norm between them, and every place of a residual stream. `tasks.tracing.trace`
makes the table from any module; nothing downstream knows layers by name (Git Re-Basin's permutation spec, generalised).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

OUTPUT = "output"
"""The group of the network's outputs: its units (the classes) are shared by all members and never matched."""


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter that carries the units of a group."""

    group: str
    reads: bool = False
    """True where the axis consumes the group's units (inputs of a layer), False where it makes or rescales them."""
    repeat: int = 1
    """Consecutive entries per unit: the number of pixels where a feature map is flattened into a linear layer."""


@dataclass(frozen=True)
class Axes:
    """The axes of every parameter and buffer of a network, and its hidden groups in the order of computation."""

    of: Mapping[str, tuple[Axis | None, ...]]
    """Name -> one entry per axis; None where the axis is shared by all members (pixels, kernel taps, the input)."""
    groups: tuple[str, ...]
    """Hidden groups, in the order in which the forward pass first writes them; `OUTPUT` is not among them."""
    means: frozenset[str] = frozenset()
    """Buffers that hold running means of units."""
    variances: frozenset[str] = frozenset()
    """Buffers that hold running variances of units, which merge as standard deviations."""

    def sizes(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Number of units of each group (and of `OUTPUT`) in a state dict of this architecture.

        Raises ValueError if names are missing or extra, or if two tensors disagree about a group's size.
        """
        self._check_names(state)
        sizes: dict[str, tuple[int, str]] = {}
        for name, axes in self.of.items():
            if state[name].ndim != len(axes):
                raise ValueError(f"{name} has {state[name].ndim} axes, expected {len(axes)}")
            for axis, length in zip(axes, state[name].shape, strict=True):
                if axis is None:
                    continue
                size, first = sizes.setdefault(axis.group, (length // axis.repeat, name))
                if size * axis.repeat != length:
                    raise ValueError(
                        f"{name} has {length} entries for the units of {axis.group}, but {first} has {size} units"
                    )
        return {group: size for group, (size, _) in sizes.items()}

    def parameters_of(self, group: str) -> list[tuple[str, int]]:
        """(name, axis index) of every place where the group's units appear."""
        return [(n, i) for n, axes in self.of.items() for i, axis in enumerate(axes) if axis and axis.group == group]

    def reader(self, group: str) -> str:
        """Name of the first parameter that consumes the group's units."""
        return next(n for n, i in self.parameters_of(group) if self.of[n][i].reads)  # type: ignore[union-attr]

    def _check_names(self, state: Mapping[str, Tensor]) -> None:
        missing, extra = sorted(set(self.of) - set(state)), sorted(set(state) - set(self.of))
        if missing or extra:
            parts = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has extra {', '.join(extra[:3])}"] * bool(
                extra
            )
            raise ValueError(f"the network is of another architecture: it {' and '.join(parts)}")
