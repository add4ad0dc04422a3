"""What a server sends back to its clients, and the penalty on leaving it: rules of a federation as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    State = Mapping[str, Tensor]


class Rule(BaseModel):
    """A rule; this one leaves every client to itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    paper: ClassVar[str] = ""
    masked: ClassVar[bool] = False
    """Whether clients learn a mask of their own, which never leaves them."""

    def merged(self, states: Sequence[State], sizes: Sequence[int], embeddings: Sequence[Tensor]) -> list[State]:
        """The network that each client receives, of those that all sent."""
        return list(states)


class Local(Rule):
    """Every client trains alone."""


class FedAvg(Rule):
    """The mean of the clients' networks, weighted by their training examples."""

    paper: ClassVar[str] = "Communication-efficient learning of deep networks, McMahan et al. 2017, arXiv 1602.05629"

    def merged(self, states: Sequence[State], sizes: Sequence[int], embeddings: Sequence[Tensor]) -> list[State]:
        from amalgam.tasks.merging.merging import merge
        from amalgam.tasks.merging.methods.registry import Average

        weights = tuple(size / sum(sizes) for size in sizes)
        return [merge(None, states, Average(weights=weights))] * len(states)


class FedProx(FedAvg):
    """The same, with a penalty on the squared distance of clients from what they received."""

    paper: ClassVar[str] = "Federated optimization in heterogeneous networks, Li et al. 2020, arXiv 1812.06127"

    proximity: float = Field(default=1e-2, ge=0)
    """Factor on half the squared distance."""


class FedPub(Rule):
    """Clients receive the mean of networks that do alike on a shared probe, and learn sparse masks of it."""

    paper: ClassVar[str] = "Personalized subgraph federated learning, Baek et al. 2023, arXiv 2206.10206"
    masked: ClassVar[bool] = True

    temperature: float = Field(default=5.0, ge=0)
    """Factor on the cosines of mean embeddings."""
    sparsity: float = Field(default=1e-3, ge=0)
    """Factor on the sum of the masks' sizes; masks smaller than it are 0 in tests."""
    proximity: float = Field(default=1e-3, ge=0)
    """Factor on the distance of weights from those received."""

    def merged(self, states: Sequence[State], sizes: Sequence[int], embeddings: Sequence[Tensor]) -> list[State]:
        from amalgam.tasks.merging.merging import merge
        from amalgam.tasks.merging.methods.registry import Average
        from amalgam.tasks.merging.weights.providers import FunctionalSimilarity

        rows = FunctionalSimilarity(temperature=self.temperature)(embeddings)
        return [merge(None, states, Average(weights=row)) for row in rows]


RULES: tuple[type[Rule], ...] = (Local, FedAvg, FedProx, FedPub)
