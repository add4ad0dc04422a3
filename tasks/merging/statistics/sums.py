"""Associative sums: shards of a stream are summed apart, in any order and by any number of workers, then added."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """Sums over examples by name, in double precision, and the number of examples."""

    values: Mapping[str, Tensor]
    count: int

    def __add__(self, other: "Sums") -> "Sums":
        if self.values.keys() != other.values.keys():
            odd = sorted(self.values.keys() ^ other.values.keys())
            raise ValueError(f"sums of different networks cannot be added: only one has {odd[0]!r}")
        values = {name: total + other.values[name] for name, total in self.values.items()}
        return Sums(values, self.count + other.count)

    def means(self) -> dict[str, Tensor]:
        """Sums over count, in single precision. Raises ValueError if no example was seen."""
        if not self.count:
            raise ValueError("no example was seen: statistics need at least one")
        return {name: (total / self.count).float() for name, total in self.values.items()}


def added(shards: Mapping[int, Sums]) -> Sums:
    """The shards added in the order of their numbers, so that not even rounding depends on who came first."""
    if not shards:
        raise ValueError("there are no shards to add")
    return reduce(Sums.__add__, (shards[number] for number in sorted(shards)))


class Accumulator:
    """Adds up what is given by name, in double precision."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.count = 0

    def add(self, parts: Mapping[str, Tensor], count: int) -> None:
        """Add the sums over `count` more examples."""
        for name, part in parts.items():
            if name in self.values:
                self.values[name] += part
            else:
                self.values[name] = part.to(torch.float64)
        self.count += count

    def sums(self) -> Sums:
        """What was added."""
        return Sums(self.values, self.count)
