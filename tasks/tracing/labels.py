"""Labels of axes and the union-find that ties them: entry i of an axis belongs to unit i // repeat of its label."""

from typing import NamedTuple


class Label(NamedTuple):
    """The units along an axis: a variable of `Labels`, each unit holding `repeat` consecutive entries."""

    root: int
    repeat: int = 1


FIXED = Label(0)
"""An axis whose entries mean the same in every member: batch, pixels, the network's input."""


class Labels:
    """Union-find over variables; a variable may be tied to blocks of another (a flattened feature map)."""

    def __init__(self) -> None:
        self._parent: list[Label] = [FIXED]

    def new(self) -> Label:
        """A label of its own, tied to nothing."""
        self._parent.append(Label(len(self._parent)))
        return self._parent[-1]

    def resolve(self, label: Label) -> Label:
        """The root variable of a label, and how many consecutive entries each of its units holds."""
        root, repeat = label
        while self._parent[root].root != root:
            repeat *= self._parent[root].repeat
            root = self._parent[root].root
        return Label(root, repeat)

    def root(self, label: Label) -> int:
        return self.resolve(label).root

    def is_free(self, label: Label) -> bool:
        """Whether the label stands for units, rather than for entries that all members share."""
        return self.root(label) != FIXED.root

    def tie(self, left: Label, right: Label) -> bool:
        """Make two axes carry the same units; False if their blocks do not divide each other."""
        (a, repeat_a), (b, repeat_b) = self.resolve(left), self.resolve(right)
        if a == b:
            return a == FIXED.root or repeat_a == repeat_b
        if FIXED.root in (a, b):
            self._parent[max(a, b)] = FIXED
            return True
        if repeat_a > repeat_b:
            a, b, repeat_a, repeat_b = b, a, repeat_b, repeat_a
        if repeat_b % repeat_a:
            return False
        self._parent[a] = Label(b, repeat_b // repeat_a)
        return True
