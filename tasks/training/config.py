"""How a network is trained, as data; `tasks.training.loop` reads it."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

REPEATABLE = ("shift", "resized_crop")


class TrainConfig(BaseModel):
    """Settings of one training run. Learning rates are those of the optimiser named beside them in torch.optim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=50, ge=1)
    """Passes over the training examples."""
    batch_size: int = Field(default=64, ge=1)
    """Images per step."""
    accumulate: int = Field(default=1, ge=1)
    """Parts a batch is computed in, one after the other, to need less memory; batch norm sees each part alone."""
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
    warmup_steps: int | None = Field(default=None, ge=0)
    """The same in steps, but no more than the run has; None leaves it to `warmup_epochs`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread evenly over all classes."""
    augment: Literal["none", "crop_flip", "shift", "resized_crop"] = "none"
    """Whether pictures are shifted by up to 1/8 of their side (black filling the gap) and mirrored at random; or only
    shifted, or cropped to 0.9 to 1 of their area and resized back, in ways that are the same for every seed."""
    views: int | None = Field(default=None, ge=1)
    """How many views by "shift" or "resized_crop" epochs go through in turn; None takes a new one every epoch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of forward and backward passes under autocast; weights stay fp32, fp16 scales its gradients."""
    choose_by: Literal["accuracy", "macro_f1"] = "accuracy"
    """The metric of held-out images whose best epoch is kept; F1 is that of classes that occur among them."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of the whole gradient in a step; None clips nothing."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "TrainConfig":
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum needs optimizer 'sgd', got momentum {self.momentum} with {self.optimizer!r}")
        if self.views is not None and self.augment not in REPEATABLE:
            raise ValueError(f"views needs augment {' or '.join(map(repr, REPEATABLE))}, got {self.augment!r}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must be at most batch_size ({self.batch_size}), got {self.accumulate}")
        if self.warmup_steps is not None and self.warmup_epochs:
            raise ValueError("give warm-up in steps or in epochs, not both")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs}), got {self.warmup_epochs}")
        return self

    @property
    def num_views(self) -> int | None:
        """How many views of the pictures a run has; None where augmentation is random in every run."""
        if self.augment not in REPEATABLE:
            return 1 if self.augment == "none" else None
        return self.epochs if self.views is None else min(self.views, self.epochs)

    def view_number(self, epoch: int) -> int:
        """Which view, from 0, an epoch sees, counted from 1."""
        return (epoch - 1) % (self.num_views or self.epochs)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        total = self.epochs * steps_per_epoch
        warmup = round(self.warmup_epochs * steps_per_epoch) if self.warmup_steps is None else self.warmup_steps
        warmup = min(warmup, total)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupDRO(_Value):
    """Weights of groups rise with their losses (Sagawa et al. 2020, algorithm 1)."""

    kind: Literal["group_dro"] = "group_dro"
    step_size: float = Field(default=0.01, gt=0)
    """eta_q: how fast weights follow losses, per step."""


class JTT(_Value):
    """Train once, then again with the images that the first network gets wrong repeated (Liu et al. 2021)."""

    kind: Literal["jtt"] = "jtt"
    epochs: int = Field(default=1, ge=1)
    """Of the first network: few, so that it errs where the shortcut fails."""
    times: int = Field(default=5, ge=2)
    """lambda_up: how often an image that it gets wrong is shown in an epoch of the second."""


class DFR(_Value):
    """Train plainly, then the head again on as many images of each group (Kirichenko et al. 2023), training images."""

    kind: Literal["dfr"] = "dfr"
