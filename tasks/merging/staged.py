"""What methods know beyond the weights: Fisher information, input Grams, projected gradients, a validation score.

Each kind is a tuple with one mapping per member, from the name of a parameter to its array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from amalgam.tasks.merging.methods.method import Need

State = Mapping[str, Tensor]
PerMember = tuple[Mapping[str, Tensor], ...]


class LiveGrams(Protocol):
    """Input Grams of a network that is merged only up to some layer (RegMean++)."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the weights that have Grams, in the order in which the network uses them."""
        ...

    def gram(self, member: int, name: str, merged: State) -> Tensor:
        """Sum of outer products of the inputs of `name` on the member's data, `merged` in place of its lower layers."""
        ...


@dataclass(frozen=True)
class Statistics:
    """Everything that may be known about the members; a method names the field it needs."""

    fisher: PerMember = ()
    """Diagonal Fisher information, of each parameter's shape."""
    factored: PerMember = ()
    """Row sums followed by column sums of the diagonal Fisher of a matrix (rows, columns), as one vector."""
    projected: PerMember = ()
    """Gradients of single examples in the coordinates of a basis, (examples, atoms), by matrix."""
    grams: PerMember = ()
    """`X^T X` over the inputs of a linear layer, (inputs, inputs), by its weight's or its module's name."""
    embeddings: PerMember = ()
    """Mean outputs on a probe that all members share, by the probe's name: what functional similarity compares."""
    live_grams: LiveGrams | None = None
    score: Callable[[State], float] | None = None
    """Score of a network on validation examples; larger is better."""
    models: tuple[str, ...] = ()
    """`digest` of the weights that each member's statistics were computed at; empty: not known, not checked."""
    basis: str | None = None
    """`basis_digest` of the atoms that `projected` refers to."""
    estimator: str | None = None
    """How the Fisher information was estimated: exact, sampled, empirical or batch."""

    def of(self, need: Need) -> PerMember:
        """The per-member arrays of one kind."""
        return getattr(self, need)

    def array(self, need: Need, member: int, name: str) -> Tensor | None:
        """One array, by the parameter's name or, for a weight, its module's; None if it was not staged."""
        found = self.of(need)[member]
        return found.get(name, found.get(name.removesuffix(".weight")))

    def mean(self, need: Need, member: int) -> float:
        """Mean entry over all of a member's arrays."""
        arrays = self.of(need)[member].values()
        return sum(float(a.double().sum()) for a in arrays) / max(1, sum(a.numel() for a in arrays))

    def norm(self, need: Need, member: int) -> float:
        """Euclidean norm of all of a member's arrays together."""
        return sum(float(a.double().square().sum()) for a in self.of(need)[member].values()) ** 0.5

    def checked(self, need: Need, members: Sequence[State]) -> Statistics:
        """These statistics in the order of `members`.

        Raises ValueError if what is needed is absent, or was computed at other weights.
        """
        if need in ("live_grams", "score"):
            if getattr(self, need) is None:
                raise ValueError(f"the method needs statistics with {need}, which are not there: stage them first")
            return self
        if len(self.of(need)) != len(members):
            raise ValueError(
                f"the method needs {need} statistics of {len(members)} members, got {len(self.of(need))}: "
                "stage them, one mapping from parameter to array per member"
            )
        return self._ordered(members) if self.models else self

    def _ordered(self, members: Sequence[State]) -> Statistics:
        places = []
        for number, member in enumerate(members):
            if (found := digest(member)) not in self.models:
                raise ValueError(
                    f"the statistics are of other weights: member {number} has fingerprint {found[:8]}, they were "
                    f"staged at {', '.join(known[:8] for known in self.models)}; stage them again"
                )
            places.append(self.models.index(found))
        kinds = ("fisher", "factored", "projected", "grams", "embeddings", "models")
        moved: dict[str, Any] = {
            kind: tuple(getattr(self, kind)[p] for p in places) for kind in kinds if getattr(self, kind)
        }
        return replace(self, **moved)


def as_statistics(found: Any, need: Need | None) -> Statistics:
    """Statistics as a method reads them; a sequence of mappings is taken for the kind that it needs.

    Raises ValueError for anything else, and for None where something is needed.
    """
    if isinstance(found, Statistics):
        return found
    if found is None:
        if need is not None:
            raise ValueError(f"the method needs statistics ({need}): stage them on each member's data and pass them")
        return Statistics()
    if need is None:
        return Statistics()
    if need in ("live_grams", "score"):
        return Statistics(**{need: found})
    if isinstance(found, Sequence) and all(isinstance(one, Mapping) for one in found):
        arrays: dict[str, Any] = {need: tuple({n: torch.as_tensor(a) for n, a in one.items()} for one in found)}
        return Statistics(**arrays)
    raise ValueError(f"statistics are one mapping from parameter to array per member, got {type(found).__name__}")


def digest(state: State) -> str:
    """16 hex digits that name the weights: the SHA-256 of names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def basis_digest(base: State, members: Sequence[State], rank: int | None) -> str:
    """Names the per-task atoms of these weights at this rank, whatever the rounding of the machine that found them."""
    parts = [digest(base), *sorted(digest(member) for member in members), str(rank)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def check_basis(known: str, base: State, members: Sequence[State], rank: int | None) -> None:
    """Raise ValueError if projected gradients were staged in another basis than that of these networks and rank."""
    if (found := basis_digest(base, members, rank)) != known:
        raise ValueError(
            f"the projected gradients are in another basis: they were staged in {known[:8]}, these members at rank "
            f"{rank} have {found[:8]}; stage them again"
        )
