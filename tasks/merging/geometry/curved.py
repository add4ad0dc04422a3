"""The solve of EpiMer (Lu et al. 2026) for one matrix: basis, curvature in it, normalisation, damping, facts."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amalgam.tasks.merging.geometry.bases import Atoms, task_atoms
from amalgam.tasks.merging.geometry.metrics import Dense, project_diagonal, project_factored, project_samples
from amalgam.tasks.merging.geometry.parameter import Parameter
from amalgam.tasks.merging.geometry.solver import Solution, average, solve

if TYPE_CHECKING:
    from amalgam.tasks.merging.methods.curvature import EpiMer

SMALLEST = 1e-12  # absolute damping: where no task's curvature says anything the result is that of TSV-M


def curved_task_vector(parameter: Parameter, method: "EpiMer") -> Tensor:
    """The merged matrix; the mean of the tasks where they have no orthogonal directions or no curvature is known."""
    atoms = task_atoms(parameter.deltas, method.rank)
    metrics = None if atoms is None else task_metrics(parameter, atoms, method)
    if atoms is None or metrics is None:
        reason = "the tasks have no orthogonal directions" if atoms is None else "no curvature is known"
        parameter.facts["fallback"] = f"mean: {reason}"
        return average(parameter.deltas)
    points = (
        list(atoms.sigma) if method.coordinates == "sigma" else [atoms.coordinates(delta) for delta in parameter.deltas]
    )
    solution = solve(points, metrics)
    _note(parameter, atoms, solution)
    return atoms.lift(solution.point * (len(points) if method.aggregate == "sum" else 1))


def task_metrics(parameter: Parameter, atoms: Atoms, method: "EpiMer") -> list[Dense] | None:
    """Each task's curvature on the atoms, normalised and damped; None if one is not known."""
    metrics = []
    for member in range(len(parameter.members)):
        found = parameter.statistics.array(method.curvature, member, parameter.name)
        if found is None:
            return None
        metric = _projected(found, atoms, method.curvature)
        metrics.append(metric.divided(_size(metric, parameter, member, method)))
    mean = sum(metric.trace for metric in metrics) / (len(metrics) * len(metrics[0].matrix))
    return [metric.damped(method.damping * mean + SMALLEST) for metric in metrics]


def _projected(found: Tensor, atoms: Atoms, curvature: str) -> Dense:
    if curvature == "projected":
        if found.shape[1] != atoms.left.shape[1]:
            raise ValueError(
                f"the projected gradients have {found.shape[1]} coordinates, the basis has {atoms.left.shape[1]}: "
                "stage them again for these members and this rank"
            )
        return project_samples(found)
    project = project_diagonal if curvature == "fisher" else project_factored
    return project(found, atoms.left, atoms.right)


def _size(metric: Dense, parameter: Parameter, member: int, method: "EpiMer") -> float:
    if method.normalize == "none":
        return 1.0
    if method.normalize == "trace" or method.curvature == "projected":  # of projections only their own mean is known
        return metric.trace / len(metric.matrix)
    return parameter.statistics.mean(method.curvature, member)


def _note(parameter: Parameter, atoms: Atoms, solution: Solution) -> None:
    """Facts of the solve: eta, condition, energy of the tasks in the basis, and how much atoms grew or shrank."""
    total = sum(float(delta.square().sum()) for delta in parameter.deltas)
    gain = solution.point / torch.where(solution.flat == 0, 1, solution.flat)
    low, middle, high = gain.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=gain.dtype)).tolist()
    parameter.facts.update(
        eta=solution.eta,
        condition=solution.condition,
        atoms=float(atoms.left.shape[1]),
        energy_kept=float(atoms.sigma.double().square().sum()) / total if total else 1.0,
        gain_low=low,
        gain_median=middle,
        gain_high=high,
    )
