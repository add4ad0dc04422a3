"""Which units the entries of a tensor belong to, and the union-find that ties them.

Every entry of every parameter axis starts as a unit of its own, a number. Operations that only move entries are run on
these numbers; operations that need two entries to be of one unit tie their numbers.
"""

from dataclasses import dataclass

import numpy as np

FIXED = 0
"""The number of entries that mean the same in every member: pixels, tokens, the network's input."""
ZERO = 1
"""The number of entries that are zero in every member (padded channels); ties ignore them."""

Ids = np.ndarray


@dataclass(frozen=True)
class Carrier:
    """The units along some axes of a value: `ids` has the value's rank, and length 1 on every other axis."""

    axes: tuple[int, ...]
    ids: Ids

    def expanded(self, shape: tuple[int, ...]) -> Ids:
        """The numbers over the whole of a value of this shape."""
        return np.broadcast_to(self.ids, shape)


class Units:
    """Union-find over numbers, vectorised: the smaller number stands for the class, so `FIXED` wins."""

    def __init__(self) -> None:
        self._parent = np.arange(2)

    def new(self, count: int) -> Ids:
        """`count` numbers, each tied to nothing."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def find(self, ids: Ids) -> Ids:
        """The number that stands for the class of each."""
        roots = self._parent[ids]
        while not np.array_equal(roots, following := self._parent[roots]):
            roots = following
        return roots

    def tie(self, left: Ids, right: Ids) -> None:
        """Make entries of one unit, pair by pair (numpy broadcasting); zeros are ignored."""
        left, right = (side.ravel() for side in np.broadcast_arrays(left, right))
        left, right = np.unique(np.stack([left, right]), axis=1)
        tied = (left != ZERO) & (right != ZERO)
        left, right = left[tied], right[tied]
        # A root that meets several smaller ones at once keeps the least, so a pass may leave pairs untied. Every
        # pass lowers some root, so the loop ends, and then no pair differs.
        while (differ := (one := self.find(left)) != (two := self.find(right))).any():
            np.minimum.at(self._parent, np.maximum(one, two)[differ], np.minimum(one, two)[differ])

    def is_free(self, ids: Ids) -> bool:
        """Whether any entry stands for a unit of a member."""
        return bool((self.find(ids) > ZERO).any())

    def __len__(self) -> int:
        return len(self._parent)
