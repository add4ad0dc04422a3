"""Where members pull a layer in different directions: signs, directions, subspaces, and curvature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from amalgam.tasks.merging.checks import check_finite, check_networks
from amalgam.tasks.merging.geometry.bases import task_rank, truncated_svd
from amalgam.tasks.merging.geometry.curved import curved_task_vector
from amalgam.tasks.merging.geometry.parameter import Parameter
from amalgam.tasks.merging.methods.registry import EpiMer, TaskArithmetic
from amalgam.tasks.merging.staged import State, Statistics


@dataclass(frozen=True)
class Conflict:
    """Of one tensor, means over pairs of members; 1 is no conflict, 0 (for signs 0.5) no relation."""

    sign_agreement: float
    """Share of the entries that both members moved which they moved in one direction."""
    cosine: float
    """Of the task vectors."""
    overlap: float | None = None
    """Mean squared cosine between the leading singular subspaces of a matrix, rows and columns: 1 where equal."""
    eta: float | None = None
    """What the flat mean loses to the curved one in the tasks' basis (EpiMer); of a matrix with known curvature."""


def conflicts(
    base: State, members: Sequence[State], statistics: Statistics | None = None, rank: int | None = None
) -> Iterator[tuple[str, Conflict]]:
    """The conflict in every tensor of floating-point numbers, one at a time.

    `statistics` with Fisher information give etas; `rank` is that of the subspaces, by default as many directions as
    all tasks can have apart. Raises ValueError as `merge` does.
    """
    check_networks(base, members, TaskArithmetic())
    known = statistics or Statistics()
    known = known.checked("fisher", members) if known.fisher else known
    for name, first in members[0].items():
        if not first.is_floating_point() or not first.numel():
            continue
        parameter = Parameter(name, base[name], [member[name] for member in members], known)
        check_finite(name, parameter.base, parameter.members)
        yield name, conflict(parameter, rank)


def conflict(parameter: Parameter, rank: int | None = None) -> Conflict:
    """That in one tensor; of a single member, or where nothing moved, there is none."""
    deltas = list(parameter.deltas)
    pairs = list(combinations(deltas, 2))
    signs, cosine = _mean(map(_same_signs, pairs)), _mean(map(_cosine, pairs))
    if parameter.ndim != 2 or len(deltas) < 2:
        return Conflict(signs, cosine)
    bases = [truncated_svd(delta, task_rank(delta.shape, len(deltas), rank)) for delta in deltas]
    overlap = _mean((_shared(a[0], b[0]) + _shared(a[2], b[2])) / 2 for a, b in combinations(bases, 2))
    return Conflict(signs, cosine, overlap, _eta(parameter, rank))


def _eta(parameter: Parameter, rank: int | None) -> float | None:
    if not parameter.statistics.fisher:
        return None
    curved_task_vector(parameter, EpiMer(rank=rank))
    eta = parameter.facts.get("eta")
    return None if eta is None else float(eta)


def _same_signs(pair: tuple[Tensor, Tensor]) -> float:
    product = pair[0].sign() * pair[1].sign()
    moved = int(product.count_nonzero())
    return float((product > 0).sum()) / moved if moved else 1.0


def _cosine(pair: tuple[Tensor, Tensor]) -> float:
    a, b = (one.flatten().double() for one in pair)
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else 1.0


def _shared(a: Tensor, b: Tensor) -> float:
    """Of two matrices of orthonormal columns, the mean squared cosine of the angles between what they span."""
    fewest = min(a.shape[1], b.shape[1])
    return float((a.T @ b).square().sum()) / fewest if fewest else 1.0


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 1.0
