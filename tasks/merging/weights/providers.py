"""Rules that give each member a weight: non-negative, summing to 1, for any linear merge and any combiner.

Importable without torch; what a rule reads (metrics, traces, embeddings, a score) is given when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

Shares = tuple[float, ...]


class WeightRule(BaseModel):
    """How members are weighted."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    paper: ClassVar[str]


class Uniform(WeightRule):
    """The same weight for every member."""

    paper: ClassVar[str] = "Model soups, Wortsman et al. 2022, arXiv 2203.05482"

    def __call__(self, count: int) -> Shares:
        if count < 1:
            raise ValueError("there is no member to weight: give at least one")
        return (1 / count,) * count


class MWA(WeightRule):
    """Metrics-weighted averaging of the checkpoints of one run.

    The formula is ours: of the paper only the idea could be read. `power` weights by `s^penalty` with s = 1 / loss,
    step / last step, or the metric itself; `softmax` by `exp(penalty z)` with s standardised; `rank` by
    `(1 + penalty)^rank`. A penalty of 0 is uniform, a large one picks the best.
    """

    paper: ClassVar[str] = "Metrics-weighted averaging, Yu & Choi 2025, arXiv 2504.18580"

    by: Literal["loss", "step", "metric"] = "loss"
    """What is known of every checkpoint: a loss (lower is better), its step, or a metric (higher is better)."""
    rule: Literal["power", "softmax", "rank"] = "power"
    """How scores become weights."""
    penalty: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """How much better checkpoints are preferred."""

    def __call__(self, values: Sequence[float]) -> Shares:
        """The checkpoints' weights. Raises ValueError for NaN, and for values that the rule cannot take."""
        found = np.asarray(values, dtype=float)
        if not found.size or not np.isfinite(found).all():
            raise ValueError(f"every checkpoint needs a finite {self.by}, got {list(map(float, values))}")
        if self.rule == "power":
            if (found <= 0).any() if self.by == "loss" else (found < 0).any() or not found.any():
                raise ValueError(
                    f"the power rule needs a positive {self.by}, got {list(values)}: choose rule='softmax'"
                )
            smallest = found.min()
            ratios = smallest / found if self.by == "loss" else found / found.max()
            return _normalised(np.power(ratios, self.penalty))
        scores = -found if self.by == "loss" else found
        if self.rule == "rank":
            ranks = (scores[:, None] > scores).sum(1)
            return _normalised(np.exp((ranks - ranks.max()) * math.log1p(self.penalty)))
        spread = scores.std() or 1.0
        return _normalised(np.exp(self.penalty * (scores - scores.max()) / spread))


def exponential_weights(count: int, decay: float) -> Shares:
    """Weights of an exponential moving average over checkpoints, oldest first: `decay` of each step is kept.

    Raises ValueError unless decay lies in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
    return _normalised(np.power(float(decay), np.arange(count)[::-1]))


class FisherTrace(WeightRule):
    """Members by the trace of their Fisher information: how sharply their data determine them."""

    paper: ClassVar[str] = "Matena & Raffel 2022, arXiv 2111.09832, with isotropic posteriors"

    def __call__(self, traces: Sequence[float]) -> Shares:
        """The members' weights. Raises ValueError unless traces are non-negative and not all zero."""
        found = np.asarray(traces, dtype=float)
        if not np.isfinite(found).all() or (found < 0).any() or not found.any():
            raise ValueError(f"traces must be non-negative and not all zero, got {list(traces)}")
        return _normalised(found)


class FunctionalSimilarity(WeightRule):
    """One row of weights per member, `softmax(temperature * cosine)` of mean outputs on a shared input batch.

    The merges with these rows are personalised: temperature 0 gives every member the uniform mean, a large one itself.
    """

    paper: ClassVar[str] = "FED-PUB, Baek et al. 2023, arXiv 2206.10206"

    temperature: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """Factor on the similarities."""

    def __call__(self, embeddings: Sequence[Tensor]) -> tuple[Shares, ...]:
        """Members x members. Raises ValueError if an embedding is zero or not finite."""
        similar = similarities(embeddings)
        raised = np.exp(self.temperature * (similar - similar.max(1, keepdims=True)))
        return tuple(_normalised(row) for row in raised)


class ValidationFitted(WeightRule):
    """The best of random weights by a score on validation examples (the search of Matena & Raffel)."""

    paper: ClassVar[str] = "Matena & Raffel 2022, arXiv 2111.09832"

    draws: int = Field(default=50, ge=0)
    """Draws from the uniform distribution over all weights, beside the uniform weights and every member alone."""
    seed: int = Field(default=0, ge=0)
    """Draws them."""

    def __call__(self, count: int, score: Callable[[Shares], float]) -> Shares:
        """The weights of highest score; of equal ones the first tried, which is uniform."""
        drawn = np.random.default_rng(self.seed).dirichlet(np.ones(count), self.draws)
        tried = [Uniform()(count), *map(_normalised, np.eye(count)), *map(_normalised, drawn)]
        return max(tried, key=score)


def similarities(embeddings: Sequence[Tensor]) -> np.ndarray:
    """Cosines of all pairs, (members, members)."""
    rows = np.stack([np.asarray(one, dtype=float).ravel() for one in embeddings])
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(rows).all() or not lengths.all():
        raise ValueError("every member's mean output must be finite and not zero: choose another input batch")
    unit = rows / lengths[:, None]
    return unit @ unit.T


def clusters(embeddings: Sequence[Tensor], threshold: float) -> tuple[tuple[int, ...], ...]:
    """Groups of members linked by cosines of at least `threshold`: one merge for each instead of each member."""
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(similarities(embeddings) >= threshold, directed=False)
    return tuple(tuple(map(int, np.flatnonzero(labels == label))) for label in np.unique(labels))


def _normalised(values: np.ndarray) -> Shares:
    return tuple(float(value) for value in values / values.sum())
