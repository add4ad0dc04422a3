"""From sums to what merge methods read, and all of it in one call for networks that fit in memory."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.merging.geometry.bases import Atoms, task_atoms
from amalgam.tasks.merging.staged import State, Statistics, basis_digest, digest
from amalgam.tasks.merging.statistics.fisher import Estimator, factored, fisher_sums
from amalgam.tasks.merging.statistics.grams import gram_sums
from amalgam.tasks.scoring.sums import Sums


def stage(
    members: Sequence[nn.Module],
    data: Sequence[Sequence[tuple[Tensor, Tensor]]],
    estimator: Estimator = "exact",
    seed: int = 0,
) -> Statistics:
    """Fisher information and input Grams of every member on its own batches of inputs and labels."""
    fisher = [fisher_sums(m, batches, estimator, seed) for m, batches in zip(members, data, strict=True)]
    grams = [gram_sums(m, inputs_of(batches)) for m, batches in zip(members, data, strict=True)]
    return assembled([m.state_dict() for m in members], fisher, grams, estimator)


def assembled(
    members: Sequence[State], fisher: Sequence[Sums], grams: Sequence[Sums], estimator: Estimator
) -> Statistics:
    """Statistics out of the members' sums, with the fingerprints of the weights that they were computed at."""
    means = tuple(sums.means() for sums in fisher)
    return Statistics(
        fisher=means,
        factored=tuple(factored(one) for one in means),
        grams=tuple(sums.means() for sums in grams),
        models=tuple(digest(member) for member in members),
        estimator=estimator,
    )


def named_basis(base: State, members: Sequence[State], rank: int | None) -> tuple[dict[str, Atoms], str]:
    """The per-task atoms of every matrix that has some, and the name of this basis."""
    found = {}
    for name, start in base.items():
        if start.ndim == 2 and start.is_floating_point():
            atoms = task_atoms([member[name].float() - start.float() for member in members], rank)
            if atoms is not None:
                found[name] = atoms
    return found, basis_digest(base, members, rank)


def inputs_of(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterable[Tensor]:
    """The inputs without their labels."""
    return (inputs for inputs, _ in batches)


def traces(fisher: Sequence[Mapping[str, Tensor]]) -> list[float]:
    """Sum of each member's diagonal Fisher."""
    return [float(torch.stack([f.double().sum() for f in one.values()]).sum()) for one in fisher]
