"""Sums over a stream of examples, by name and group: what statistics over more data than fits in memory are made of.

Addition is associative, so a stream may be cut into shards that are summed anywhere and added up in any order: counts
come out equal, other sums up to rounding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


class Sums(Mapping[str, Tensor]):
    """Sums by name, each a tensor, in double precision or integers, and the number of examples that they are over."""

    def __init__(self, amounts: Mapping[str, Tensor] | None = None, num_examples: int = 0) -> None:
        self.num_examples = num_examples
        self._sums: dict[str, Tensor] = {}
        self._least: dict[str, Tensor] = {}
        self.add(amounts or {})

    def count(self, num_examples: int) -> None:
        """Note that a batch of so many examples was summed."""
        self.num_examples += num_examples

    def add(self, amounts: Mapping[str, Tensor]) -> None:
        """Add an amount to each sum it names."""
        for name, amount in amounts.items():
            if name in self._sums:
                self._sums[name] += amount
            else:
                self._sums[name] = amount.to(torch.float64 if amount.is_floating_point() else amount.dtype, copy=True)

    def add_by(self, groups: Tensor, num_groups: int, amounts: Mapping[str, Tensor]) -> None:
        """Add amounts (n, ...) to sums (num_groups, ...): each to that of its group, groups (n,) counted from 0."""
        for name, amount in amounts.items():
            if name not in self._sums:
                self._sums[name] = amount.new_zeros(num_groups, *amount.shape[1:])
            self._sums[name].index_add_(0, groups, amount)

    def keep_least(self, amounts: Mapping[str, Tensor]) -> None:
        """Keep, entry by entry, the least of the amounts of each name."""
        for name, amount in amounts.items():
            self._least[name] = torch.minimum(self._least[name], amount) if name in self._least else amount

    def require(self, what: str) -> None:
        """Raise ValueError, "there are no ... : give at least one", if no example was counted."""
        if not self.num_examples:
            raise ValueError(f"there are no {what}: give at least one")

    def means(self) -> dict[str, Tensor]:
        """Each sum over the number of examples, in single precision. Raises ValueError if there were none."""
        self.require("examples to average over")
        return {name: (total / self.num_examples).float() for name, total in self._sums.items()}

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over the examples of both."""
        both = Sums()
        for sums in (self, other):
            both.count(sums.num_examples)
            both.add(sums._sums)
            both.keep_least(sums._least)
        return both

    def __getitem__(self, name: str) -> Tensor:
        return self._sums[name] if name in self._sums else self._least[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._sums
        yield from self._least

    def __len__(self) -> int:
        return len(self._sums) + len(self._least)


def added(shards: Mapping[int, Sums]) -> Sums:
    """The shards added in the order of their numbers, so that not even rounding depends on which came first.

    Raises ValueError if there are none, or if they have different names, as sums of different networks do.
    """
    ordered = [shards[number] for number in sorted(shards)]
    if not ordered:
        raise ValueError("there are no shards to add")
    for shard in ordered[1:]:
        if odd := sorted(ordered[0].keys() ^ shard.keys()):
            raise ValueError(f"shards of different networks cannot be added: only one has {odd[0]!r}")
    return reduce(Sums.__add__, ordered)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of columns over rows. They add up without the cancellation that sums of squares suffer."""

    num_rows: int
    mean: Tensor
    """(columns,), float64."""
    deviations: Tensor
    """Sums of squared distances from the mean, (columns,), float64."""

    @classmethod
    def none(cls, num_columns: int) -> "Moments":
        """Those of no rows."""
        return cls(0, *torch.zeros(2, num_columns, dtype=torch.float64))

    @classmethod
    def of(cls, rows: Tensor) -> "Moments":
        """Those of some rows (rows, columns), of which there is at least one."""
        mean = rows.double().mean(0)
        return cls(len(rows), mean, (rows.double() - mean).square().sum(0))

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both together (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        total, delta = self.num_rows + other.num_rows, other.mean - self.mean
        between = delta.square() * self.num_rows * other.num_rows / max(1, total)
        mean = self.mean + delta * other.num_rows / max(1, total)
        return Moments(total, mean, self.deviations + (other.deviations + between))

    @property
    def variance(self) -> Tensor:
        """Population variance over rows, (columns,)."""
        return self.deviations / self.num_rows
