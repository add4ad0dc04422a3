"""Methods that read statistics of the tasks: Fisher information or inputs of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear, MatrixMethod, Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter
    from amalgam.tasks.merging.staged import State, Statistics


class Fisher(Linear):
    """Each entry the mean of the members', weighted by their diagonal Fisher information; it needs no base.

    Entries of which no member's Fisher says anything are averaged, as are tensors without one.
    """

    paper: ClassVar[str] = "Merging models with Fisher-weighted averaging, Matena & Raffel 2022, arXiv 2111.09832"
    needs_base: ClassVar[bool] = False

    norm: Literal["none", "l2", "mean"] = "none"
    """What each member's Fisher is divided by first: nothing, its Euclidean norm, or its mean entry."""
    floor: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Added to every (normalised) Fisher entry."""

    @property
    def need(self) -> Need | None:
        return "fisher"

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.metrics import Diagonal
        from amalgam.tasks.merging.geometry.solver import average, solve_diagonal

        known, metrics = parameter.statistics, []
        for member in range(len(parameter.members)):
            fisher = known.array("fisher", member, parameter.name)
            if fisher is None:
                return average(parameter.values, self.weights)
            metrics.append(Diagonal(fisher.double() / self._size(known, member) + self.floor))
        return solve_diagonal([value.double() for value in parameter.values], metrics, self.weights)

    def _size(self, known: Statistics, member: int) -> float:
        if self.norm == "none":
            return 1.0
        return (known.norm("fisher", member) if self.norm == "l2" else known.mean("fisher", member)) or 1.0


class RegMean(Linear):
    """The least-squares solution on the inputs of each linear layer; everything else is averaged; it needs no base."""

    paper: ClassVar[str] = "Dataless knowledge fusion by merging weights, Jin et al. 2023, arXiv 2212.09849"
    needs_base: ClassVar[bool] = False

    off_diagonal: float = Field(default=0.9, ge=0, le=1)
    """Factor on the off-diagonal entries of the input Grams: 1 is plain least squares, smaller is more cautious."""

    @property
    def need(self) -> Need | None:
        return "grams"

    def tensor(self, parameter: Parameter) -> Tensor:
        members = range(len(parameter.members))
        return self.solved(parameter, [parameter.statistics.array("grams", t, parameter.name) for t in members])

    def solved(self, parameter: Parameter, grams: list[Tensor | None]) -> Tensor:
        """The least-squares weight (outputs, inputs) for the Grams (inputs, inputs); the mean if one is missing."""
        from amalgam.tasks.merging.geometry.metrics import Dense
        from amalgam.tasks.merging.geometry.solver import average, solve

        if parameter.ndim != 2 or any(gram is None for gram in grams):
            return average(parameter.values, self.weights)
        metrics = []
        for gram in grams:
            assert gram is not None
            wide = gram.double()
            metrics.append(Dense(self.off_diagonal * wide + (1 - self.off_diagonal) * wide.diagonal().diag()))
        solution = solve(parameter.values, metrics, self.weights)
        parameter.facts.update(eta=solution.eta, condition=solution.condition)
        return solution.point


class RegMeanPlusPlus(RegMean):
    """RegMean layer by layer, each on the inputs that the layers merged before give it."""

    paper: ClassVar[str] = "RegMean++, Nguyen et al. 2025, arXiv 2508.03121"
    by_tensor: ClassVar[bool] = False

    @property
    def need(self) -> Need | None:
        return "live_grams"

    def whole(self, base: State | None, members: Sequence[State], statistics: Statistics) -> dict[str, Tensor]:
        """The merged network."""
        from amalgam.tasks.merging.geometry.parameter import Parameter

        live = statistics.live_grams
        assert live is not None
        merged: dict[str, Tensor] = {}
        for name in (*(n for n in members[0] if n not in live.layers), *live.layers):
            tensors = [member[name] for member in members]
            if not tensors[0].is_floating_point():
                continue
            grams = [live.gram(t, name, merged) if name in live.layers else None for t in range(len(members))]
            merged[name] = self.solved(Parameter(name, None, tensors), grams).to(tensors[0].dtype)
        return merged


class Wudi(MatrixMethod):
    """The matrix that interferes least with the tasks' own rows: RegMean with each task matrix in place of its inputs.

    It minimises `sum_t norm((D - D_t) D_t^T)^2 / norm(D_t)^2`. The published method stops Adam on this objective early,
    starting from the sum of the task matrices; this is its optimum. Directions that no task's rows have stay at the
    mean.
    """

    paper: ClassVar[str] = "Whoever started the interference should end it, Cheng et al. 2025, arXiv 2503.08099"

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.metrics import Dense
        from amalgam.tasks.merging.geometry.solver import solve

        deltas = [delta.double() for delta in parameter.deltas]
        metrics = [Dense(delta.T @ delta).divided(float(delta.square().sum())) for delta in deltas]
        solution = solve(deltas, metrics)
        parameter.facts.update(eta=solution.eta, condition=solution.condition)
        return solution.point


class EpiMer(MatrixMethod):
    """The curved mean of the tasks in the basis of TSV-M, every matrix by itself; other tensors are averaged.

    Equal curvatures of all tasks give TSV-M. The damping is shared by the tasks, relative to the mean curvature, so
    that this limit stays exact. `eta` of every matrix is logged.
    """

    paper: ClassVar[str] = "Model merging on loss landscape: a geometry perspective, Lu et al. 2026, arXiv 2605.26693"

    rank: int | None = Field(default=None, ge=1)
    """Singular vectors of each task. [default: as many as fit, the shorter side over the number of tasks]"""
    curvature: Literal["fisher", "factored", "projected"] = "fisher"
    """Diagonal Fisher, its row and column sums, or gradients of single examples staged in this very basis."""
    coordinates: Literal["sigma", "projection"] = "sigma"
    """Of a task: its singular values at its own atoms and zero elsewhere, or its matrix projected on all atoms."""
    normalize: Literal["trace", "mean", "none"] = "trace"
    """What each task's curvature is divided by: its mean over the matrix's atoms, over its network, or nothing."""
    damping: float = Field(default=1e-3, ge=0, allow_inf_nan=False)
    """Added to the diagonal of every task's curvature, as a share of the mean curvature."""
    aggregate: Literal["sum", "frechet"] = "sum"
    """The mean times the number of tasks, as atoms belong to one task each, or the plain curved mean."""

    @property
    def need(self) -> Need | None:
        return self.curvature

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.curved import curved_task_vector

        return curved_task_vector(parameter, self)
