"""BayesTune: which entries of a network are worth training, by a sparse prior on how far they move.

    theta_i | lambda_i ~ Laplace(base_i, lambda_i),   lambda_i ~ Gamma(shape, rate)     (Kim & Hospedales 2023)

Stage 1 alternates steps of theta on the loss with draws of lambda given |theta_i - base_i|, which is generalised
inverse Gaussian (`gig`); the score of an entry is the mean of its lambda over the chain. Stage 2 is ordinary training
of the entries of highest score. The public code runs Adam over noise and clamps lambda; here theta moves by
preconditioned Langevin dynamics at a fixed temperature, or by proximal steps to the mode, and lambda is exact.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BayesTune(BaseModel):
    """Settings of stage 1; defaults of prior are those of the public code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chain: Literal["map", "sgld"] = "map"
    """How theta moves: proximal steps towards the mode, or Langevin dynamics that sample it."""
    rule: Literal["mode", "mean", "sample"] = "mode"
    """What lambda becomes given how far its entry has moved."""
    shape: float = Field(default=0.01, gt=0, lt=2)
    """Of the Gamma prior; below 2 the mode is at 0 for an entry that does not move."""
    rate: float = Field(default=100.0, gt=0)
    """Of the Gamma prior."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the training images."""
    warmup: int = Field(default=5, ge=0)
    """First epochs, in which theta moves without the prior."""
    burn_in: int = Field(default=10, ge=0)
    """First epochs, warm-up among them, that no mean is taken over."""
    thin: int = Field(default=5, ge=1)
    """Steps between two values of lambda that a mean is taken over."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of theta, before it is divided by the root mean square of an entry's gradients."""
    batch_size: int = Field(default=64, ge=2)
    temperature: float = Field(default=1.0, ge=0)
    """Multiplies the variance of Langevin noise; no effect at the mode."""
    num_data: float = Field(default=1e6, gt=0)
    """Images that the likelihood counts as (the public code takes 1e12). Of as many as there are, the prior would leave
    nothing: an entry that moved by d is pulled back by about 2 / (num_data d) against a mean gradient."""

    @model_validator(mode="after")
    def _some_epochs_count(self) -> "BayesTune":
        if not self.warmup <= self.burn_in < self.epochs:
            raise ValueError(
                f"a chain warms up, burns in and is then averaged: got {self.warmup}, {self.burn_in} and {self.epochs}"
            )
        return self
