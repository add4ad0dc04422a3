"""Matching methods as values: what to give `fuse`, a configuration, or the command line.

Importable without torch, so that plans and help pages are instant; the engine is imported when a method is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from amalgam.tasks.fusion.couplings.budget import Budget
from amalgam.tasks.fusion.couplings.clustering import Lloyd, Ward
from amalgam.tasks.fusion.couplings.interpolation import IntraFusion
from amalgam.tasks.fusion.couplings.method import Cost, Method
from amalgam.tasks.fusion.couplings.pruning import MagnitudePruning, SpreadPruning
from amalgam.tasks.fusion.couplings.transplantation import NeuronTransplantation
from amalgam.tasks.fusion.couplings.transport import TransportedPruning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amalgam.tasks.fusion.cost import ActivationCost, State, Universe
    from amalgam.tasks.fusion.matching import Matching
    from amalgam.tasks.tracing.axes import Axes

Target = Literal["logits", "probabilities"]
"""Which mean of the members a fused network approaches."""


class Refit(BaseModel):
    """Fit every layer of the fused network to the ensemble on unlabelled images (see `refit`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ridge: float = Field(default=1e-2, gt=0)
    """Penalty on leaving the merged weights, as a multiple of the mean square of a layer's inputs."""
    head: Target = "logits"
    """What the last layer is fitted to: the weighted mean of logits, or the logarithm of that of probabilities."""
    rows_per_feature: int = Field(default=16, ge=1)
    """Positions of images used per input of a unit, at most about so many: convolutions see far more than they need."""


class Identity(Method):
    """Unit i with unit i: naive weight averaging, of the weights as they are."""

    @property
    def fixes_gauge(self) -> bool:
        return False

    def __call__(
        self,
        axes: Axes,
        states: Sequence[State],
        activations: ActivationCost | None = None,
        start: Universe | None = None,
    ) -> Matching:
        from amalgam.tasks.fusion.matching import identity

        return identity(axes, states)


class PartialOT(Method):
    """Match all but a share `alpha` of each group by partial optimal transport (Morelli & Eckstein 2026).

    With uniform masses this is a k-cardinality assignment, k = round((1 - alpha) n), solved exactly group by group in
    a coordinate descent over all groups. alpha = 0 matches everyone, alpha = 1 is the ensemble of logits.
    """

    alpha: float = Field(ge=0, le=1)
    """Share of each group's units that stay alone, in [0, 1]."""
    cost: Cost = "weights"
    """What makes two units similar: the parameters around them, their activations, or both in equal measure."""
    seed: int = 0
    """Orders the groups within a sweep of the descent."""
    max_sweeps: int = Field(default=100, ge=0)
    """Sweeps after which the descent stops although assignments still change; 0 keeps the greedy first pass."""

    @property
    def needs_activations(self) -> bool:
        return self.cost != "weights"

    def __call__(
        self,
        axes: Axes,
        states: Sequence[State],
        activations: ActivationCost | None = None,
        start: Universe | None = None,
    ) -> Matching:
        from amalgam.tasks.fusion.matching import costs_of, descend

        if self.needs_activations and activations is None:
            raise ValueError(f"cost={self.cost!r} needs activations; give calibration batches, or cost='weights'")
        costs = costs_of(axes, states, activations if self.needs_activations else None, self.cost != "activations")
        return descend(costs, self.alpha, seed=self.seed, max_sweeps=self.max_sweeps, start=start)


class Assignment(PartialOT):
    """Match every unit: Git Re-Basin's weight matching (cost="weights") or OT fusion (cost="activations")."""

    alpha: float = Field(default=0.0, ge=0, le=0)


METHODS: tuple[type[Method], ...] = (
    Identity,
    Assignment,
    PartialOT,
    Budget,
    Ward,
    Lloyd,
    MagnitudePruning,
    SpreadPruning,
    TransportedPruning,
    IntraFusion,
    NeuronTransplantation,
)
"""Every method, for names on the command line, property tests and documentation."""
