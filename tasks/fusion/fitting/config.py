"""Settings of the layer-wise fit, as data; `fitting.refit` reads them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Target = Literal["logits", "probabilities"]
"""Which weighted mean of the members a fused network approaches."""


class Refit(BaseModel):
    """Fit every layer of the fused network to the ensemble on unlabelled images (see `refit`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ridge: float = Field(default=1e-2, gt=0)
    """Penalty on leaving the merged weights, as a multiple of the mean square of a layer's inputs."""
    head: Target = "logits"
    """What the last layer is fitted to: the weighted mean of logits, or the logarithm of that of probabilities."""
    rows_per_feature: int = Field(default=16, ge=1)
    """Positions of images used per input of a unit, at most about so many: convolutions see far more than they need."""
