"""How a network is trained, as data; `tasks.train` reads it."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Settings of one training run. Learning rates are those of the optimiser named beside them in torch.optim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=50, ge=1)
    """Passes over the training examples."""
    batch_size: int = Field(default=64, ge=1)
    """Images per step."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """The rule of each step, as in torch.optim."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size at its highest."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Pull of every parameter to zero: added to the gradient, except by adamw, which applies it on its own."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the last step that SGD repeats; adam and adamw keep moments of their own, so it must be 0 there."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Whether the learning rate stays, or falls to 0 along half a cosine, step by step."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the learning rate first rises in a straight line."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread evenly over all classes."""
    augment: Literal["none", "crop_flip"] = "none"
    """Whether pictures are shifted by up to 1/8 of their side (black filling the gap) and mirrored at random."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of forward and backward passes under autocast; weights stay fp32, fp16 scales its gradients."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of the whole gradient in a step; None clips nothing."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "TrainConfig":
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum belongs to optimizer 'sgd', got momentum {self.momentum} with {self.optimizer!r}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs}), got {self.warmup_epochs}")
        return self

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
