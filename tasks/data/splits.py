"""Data splits: the examples each member is trained on, and those held out to choose an epoch by.

A split is a value: `GeneralSpecialist(special_class=4)(labels, num_members=2, seed=0)` gives one sorted array of
positions in `labels` for each member. Shares are taken class by class, to the nearest example.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from amalgam.tasks.data.catalogue import DataSpec

Labels = NDArray[np.integer]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


def require_classes(labels: Labels, what: str) -> None:
    """Raise ValueError unless there are examples of at least two classes."""
    classes = np.unique(labels)
    if len(classes) == 0:
        raise ValueError(f"{what} is empty: a classifier needs examples of at least two classes")
    if len(classes) == 1:
        raise ValueError(
            f"{what} contains only class {classes[0]} ({len(labels)} examples): "
            f"a classifier needs examples of at least two classes"
        )


class SampleConfig(BaseModel):
    """Who may see which images of the training split; the test split is read by evaluations alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataSpec
    seed: int
    """Draws the validation images, the members' shares and the probe."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training split held out from all members, to choose epochs by."""


class ProbeConfig(BaseModel):
    """Unlabelled, unaugmented training images: activations and calibration are measured on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: SampleConfig
    num_rows: int = Field(default=1000, ge=2)
    """Images drawn from those that members may be trained on."""

    def indices(self, pool: Indices) -> Indices:
        """The positions of the probe, drawn from `pool`. Raises ValueError if there are fewer than `num_rows`."""
        if self.num_rows > len(pool):
            raise ValueError(
                f"the probe needs {self.num_rows} images, but only {len(pool)} may be used: lower --probe-rows"
            )
        order = np.random.default_rng((self.sample.seed, 1)).permutation(len(pool))
        return np.sort(pool[order[: self.num_rows]])


class Split(BaseModel, ABC):
    """How the examples of a training split are divided among the members."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def __call__(self, labels: Labels, num_members: int, seed: int) -> list[Indices]:
        """The sorted positions in `labels` that each member sees."""


class Shared(Split):
    """Every member sees every example."""

    def __call__(self, labels: Labels, num_members: int, seed: int) -> list[Indices]:
        """The positions in `labels` that each member sees; `seed` plays no part."""
        return _checked([np.arange(len(labels))] * num_members, labels)


class SharedSample(Split):
    """Every member sees the same few examples, each class in its proportion."""

    num_images: int = Field(gt=0)
    """How many there are."""

    def __call__(self, labels: Labels, num_members: int, seed: int) -> list[Indices]:
        """The positions in `labels` that each member sees, drawn from the seed."""
        if self.num_images >= len(labels):
            raise ValueError(f"{self.num_images} training images must be fewer than the {len(labels)} there are")
        _, chosen = hold_out(labels, self.num_images / len(labels), seed)
        return _checked([chosen] * num_members, labels)


class GeneralSpecialist(Split):
    """A general member that never sees one class, and a specialist that sees all of it and little else."""

    special_class: int = Field(default=4, ge=0)
    """The class that only the specialist (the second member) sees."""
    share: float = Field(default=0.9, gt=0, lt=1)
    """Share of every other class that the general member (the first) sees; the specialist sees the rest."""

    def __call__(self, labels: Labels, num_members: int, seed: int) -> list[Indices]:
        """The positions in `labels` that the general member and the specialist see."""
        if num_members != 2:
            raise ValueError(f"GeneralSpecialist makes 2 members, got {num_members}: use ClassSplit for other numbers")
        special = np.flatnonzero(labels == self.special_class)
        if len(special) == 0:
            raise ValueError(f"special_class must be one of the classes {_span(labels)}, got {self.special_class}")
        others = np.flatnonzero(labels != self.special_class)
        require_classes(labels[others], "the split of the general member")
        rest, general = hold_out(labels[others], self.share, seed)
        return _checked([others[general], np.sort(np.concatenate([special, others[rest]]))], labels)


class ClassSplit(Split):
    """Every class has a home member that sees most of it (the c-th class: member c mod K); the others see a little."""

    other: float = Field(default=0.03, ge=0, lt=1)
    """Share of a class that each member which is not its home sees; the home sees what is left."""

    def __call__(self, labels: Labels, num_members: int, seed: int) -> list[Indices]:
        """The positions in `labels` that each member sees; no example is seen twice."""
        classes = np.unique(labels)
        if not 0 < num_members <= len(classes):
            raise ValueError(
                f"ClassSplit needs a class for each member: got {num_members} members, {len(classes)} classes"
            )
        if (num_members - 1) * self.other >= 1:
            raise ValueError(f"other must be below 1/{num_members - 1} with {num_members} members, got {self.other}")
        generator = np.random.default_rng(seed)
        seen: list[list[Indices]] = [[] for _ in range(num_members)]
        for place, label in enumerate(classes):
            for member, indices in enumerate(self._deal(labels, label, place % num_members, num_members, generator)):
                seen[member].append(indices)
        return _checked([np.sort(np.concatenate(parts)) for parts in seen], labels)

    def _deal(
        self, labels: Labels, label: int, home: int, num_members: int, generator: np.random.Generator
    ) -> list[Indices]:
        """The examples of one class, shuffled and divided among the members."""
        indices = generator.permutation(np.flatnonzero(labels == label))
        few = round(self.other * len(indices))
        sizes = np.full(num_members, few)
        sizes[home] = len(indices) - few * (num_members - 1)
        return np.split(indices, np.cumsum(sizes)[:-1])


SPLITS: list[type[Split]] = [GeneralSpecialist, ClassSplit, Shared, SharedSample]


def hold_out(labels: Labels, share: float, seed: int, sources: Indices | None = None) -> tuple[Indices, Indices]:
    """The positions kept and those held out: `share` of all examples, stratified by class, both sorted.

    Every class gives its share to within one example, and the total is the nearest whole number (largest remainders).
    `sources` (examples, k) are numbers of what each example was made from: examples that share one, directly or through
    others, stay together, and shares are then met as nearly as whole groups allow. Raises ValueError if either
    side would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be between 0 and 1, got {share}")
    total = round(share * len(labels))
    if total in (0, len(labels)):
        raise ValueError(f"too few examples: holding out {share} of {len(labels)} leaves one side empty")
    generator = np.random.default_rng(seed)
    together = np.arange(len(labels)) if sources is None else _together(sources)
    if len(np.unique(together)) < len(labels):
        mask = _held_out_groups(labels, together, share, generator)
        return np.flatnonzero(~mask), np.flatnonzero(mask)
    classes, counts = np.unique(labels, return_counts=True)
    sizes = _largest_remainders(share * counts, total)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, sizes, strict=True)
    ]
    mask = np.zeros(len(labels), bool)
    mask[np.concatenate(chosen)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _together(sources: Indices) -> Indices:
    """The number of the group of each example: groups share no source."""
    from scipy.sparse import coo_array  # plans need none
    from scipy.sparse.csgraph import connected_components

    # Groups are the components of the graph that joins each example to its sources.
    count, width = sources.shape
    nodes = np.unique(sources, return_inverse=True)[1].reshape(-1) + count
    edges = np.arange(count).repeat(width), nodes
    size = count + int(nodes.max(initial=0)) + 1
    groups: Indices = connected_components(coo_array((np.ones(len(nodes)), edges), (size, size)), directed=False)[1]
    return groups[:count]


def _held_out_groups(labels: Labels, together: Indices, share: float, generator: np.random.Generator) -> Mask:
    """Which examples are held out: groups in random order, where that brings the classes nearer to their shares.

    Those that would exceed the share of all examples have to wait until the others have been tried.
    """
    groups, member = np.unique(together, return_inverse=True)
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(groups), len(classes)))
    np.add.at(counts, (member, label), 1)
    missing, taken = share * counts.sum(0), np.zeros(len(groups), bool)
    order = generator.permutation(len(groups))
    for group, may_exceed in [(group, may_exceed) for may_exceed in (False, True) for group in order]:
        after = missing - counts[group]
        if not taken[group] and after @ after < missing @ missing and (may_exceed or after.sum() >= 0):
            missing, taken[group] = after, True
    mask: Mask = taken[member]
    if mask.all() or not mask.any():
        raise ValueError(
            f"the examples are of {len(groups)} groups that share no source, too few or too large to hold out {share} "
            "of them: choose another share, or a group column with more values"
        )
    return mask


def _largest_remainders(quotas: NDArray[np.floating], total: int) -> Indices:
    """Whole numbers that sum to `total`, each within one of its quota (Hamilton's apportionment)."""
    sizes = np.floor(quotas).astype(np.int64)
    order = np.argsort(sizes - quotas, kind="stable")
    sizes[order[: total - sizes.sum()]] += 1
    return sizes


def _checked(members: list[Indices], labels: Labels) -> list[Indices]:
    for member, indices in enumerate(members):
        require_classes(labels[indices], f"the split of member {member}")
    return members


def _span(labels: Labels) -> str:
    return ", ".join(map(str, np.unique(labels)[:20]))
