"""One name of the state dict in the base and in every member: what a merge method sees at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Tensor

from amalgam.tasks.merging.staged import Statistics


@dataclass(frozen=True)
class Parameter:
    """The tensors of one name; they are read, widened and subtracted only when a method asks for them."""

    name: str
    base: Tensor | None
    members: Sequence[Tensor]
    statistics: Statistics = field(default_factory=Statistics)
    facts: dict[str, float | str] = field(default_factory=dict)
    """What the method wants known about this tensor: its eta, its condition, the fallback it took."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.members[0].ndim

    @property
    def base_tensor(self) -> Tensor:
        """The base, in at least single precision."""
        assert self.base is not None, "methods that need a base are not called without one"
        return _wide(self.base)

    @property
    def values(self) -> "Lazy":
        """The members' tensors in at least single precision."""
        return Lazy(len(self.members), lambda place: _wide(self.members[place]))

    @property
    def deltas(self) -> "Lazy":
        """The task vectors, computed at every access, so that only one is in memory."""
        return Lazy(len(self.members), lambda place: _wide(self.members[place]) - self.base_tensor)


@dataclass(frozen=True)
class Lazy(Sequence[Tensor]):
    """Tensors that are computed when they are read."""

    length: int
    make: Callable[[int], Tensor]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> list[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | list[Tensor]:
        if isinstance(place, slice):
            return [self.make(one) for one in range(*place.indices(self.length))]
        if not -self.length <= place < self.length:
            raise IndexError(place)
        return self.make(place % self.length)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
