"""The order in which the units of groups lie along an axis, at the members' widths and at any other.

An axis is a sequence of segments. A segment is every unit of one group, each with `repeat` consecutive entries
(the pixels of a flattened channel, the entries of an attention head), or entries that all members share. Where a
network interleaves groups (channel shuffle), a segment gathers what belongs together; the rebuilt network keeps the
gathered order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

OUTPUT = "output"
"""The group of the network's outputs: its units (the classes) are shared by all members and never matched."""


@dataclass(frozen=True)
class Segment:
    """Where the units of one group lie along an axis."""

    group: str | None
    """None for entries that all members share."""
    entries: np.ndarray
    """(units, repeat): positions along the members' axis; (1, length) for shared entries."""

    @property
    def repeat(self) -> int:
        return self.entries.shape[1]

    def width(self, widths: Mapping[str, int]) -> int:
        """Entries of the segment where groups are as wide as `widths` says."""
        return self.repeat * (1 if self.group is None else widths[self.group])


@dataclass(frozen=True)
class Layout:
    """The segments of one axis, in order."""

    segments: tuple[Segment, ...]

    @classmethod
    def shared(cls, length: int) -> "Layout":
        """An axis that all members share."""
        return cls((Segment(None, np.arange(length)[None]),))

    @cached_property
    def order(self) -> np.ndarray:
        """Position along the members' axis of each entry, segment after segment."""
        return np.concatenate([segment.entries.ravel() for segment in self.segments])

    @property
    def is_natural(self) -> bool:
        """Whether segments lie one after the other in the members themselves."""
        return bool((np.diff(self.order) == 1).all())

    @property
    def is_plain(self) -> bool:
        """Whether the axis is one whole group and nothing else."""
        return len(self.segments) == 1 and self.segments[0].group is not None and self.is_natural

    def width(self, widths: Mapping[str, int]) -> int:
        """Length of the axis where groups are as wide as `widths` says."""
        return sum(segment.width(widths) for segment in self.segments)

    def starts(self, widths: Mapping[str, int]) -> list[int]:
        """First entry of each segment at those widths."""
        return [0, *np.cumsum([segment.width(widths) for segment in self.segments])[:-1].tolist()]

    def gather(self, source: "Layout", positions: np.ndarray, widths: Mapping[str, int]) -> np.ndarray:
        """Which entries of an axis laid out as `source` make up this one at other widths; -1 for zeros.

        `positions` says so at the members' widths: entry i of this axis is entry `positions[i]` of the source. Raises
        ValueError if units of a group are not moved alike.
        """
        starts, places = source.starts(widths), source._places()
        result = []
        for segment in self.segments:
            columns = []
            for column in segment.entries.T:
                columns.append(_moved_column(source, segment, positions[column], places, starts, widths))
            result.append(np.stack(columns, 1).ravel() if segment.group else np.concatenate(columns))
        return np.concatenate(result)

    def _places(self) -> np.ndarray:
        """(entries, 3): segment, unit and place within the unit of every entry of the members' axis."""
        table = np.zeros((len(self.order), 3), dtype=int)
        for number, segment in enumerate(self.segments):
            unit, place = np.indices(segment.entries.shape)
            rows = np.stack([np.full(unit.size, number), unit.ravel(), place.ravel()], 1)
            table[segment.entries.ravel()] = rows
        return table


def _moved_column(
    source: Layout,
    segment: Segment,
    origins: np.ndarray,
    places: np.ndarray,
    starts: list[int],
    widths: Mapping[str, int],
) -> np.ndarray:
    if (origins < 0).all():
        return np.full(widths[segment.group] if segment.group else len(origins), -1)
    number, _, place = found = places[origins].T
    if segment.group is None:
        return np.array([starts[n] + p for n, p in zip(number, place, strict=True)])
    same = (number == number[0]).all() and (place == place[0]).all() and (found[1] == np.arange(len(origins))).all()
    if not same or (origins < 0).any():
        raise ValueError("units of one group are moved differently")
    # Entry `place` of unit u lies at start + u * repeat + place, whatever the number of units.
    first = source.segments[number[0]]
    return starts[number[0]] + np.arange(widths[segment.group]) * first.repeat + place[0]


def arrange(groups: np.ndarray, units: np.ndarray, sizes: np.ndarray, names: Sequence[str]) -> Layout:
    """The layout of an axis whose entry i is unit `units[i]` of group number `groups[i]` (-1: shared by all).

    `sizes` and `names` are the number of units and the name of each group.
    """
    found = _natural(groups, units, sizes, names)
    return Layout(tuple(found if found is not None else _gathered(groups, units, names)))


def _natural(groups: np.ndarray, units: np.ndarray, sizes: np.ndarray, names: Sequence[str]) -> list[Segment] | None:
    """Segments one after the other, if every group's units come whole and in order."""
    segments, start, end = [], 0, len(groups)
    while start < end:
        group = groups[start]
        other = np.flatnonzero(groups[start:] != group)
        length = other[0] if len(other) else end - start
        if group < 0:
            segments.append(Segment(None, np.arange(start, start + length)[None]))
            start += length
            continue
        # The first change of unit shows how many entries a unit has; a group of one unit has the whole run.
        first = np.flatnonzero(units[start : start + length] != units[start])
        repeat = first[0] if len(first) else (length if sizes[group] == 1 else 0)
        span = repeat * sizes[group]
        whole = np.repeat(np.arange(sizes[group]), repeat)
        if not span or span > length or not np.array_equal(units[start : start + span], whole):
            return None
        segments.append(Segment(names[group], np.arange(start, start + span).reshape(-1, repeat)))
        start += span
    return segments


def _gathered(groups: np.ndarray, units: np.ndarray, names: Sequence[str]) -> list[Segment]:
    """One segment per group, in the order of first appearance."""
    segments = []
    for group in dict.fromkeys(groups.tolist()):
        positions = np.flatnonzero(groups == group)
        if group < 0:
            segments.append(Segment(None, positions[None]))
        else:
            ordered = positions[np.argsort(units[positions], kind="stable")]
            segments.append(Segment(names[group], ordered.reshape(len(np.unique(units[positions])), -1)))
    return segments
