"""Sparse autoencoders as data: what an autoencoder is for, and how many are trained how.

Importable without torch, so that plans and help pages are instant.
"""

import math
from typing import Any, Self

from pydantic import Field, model_validator

from amalgam.tasks.sae.rules import Sparsity, Value, num_active, varied


class FeatureInfo(Value):
    """What a matrix of features is."""

    width: int = Field(ge=1)
    """Length of a feature vector."""
    normalised: bool = True
    """Whether every vector has Euclidean norm 1."""
    backbone: str
    """Key of the model and preprocessing that gave the features."""


class SAEInfo(FeatureInfo):
    """What an autoencoder is, and which features it reads."""

    num_latents: int = Field(ge=1)
    """Atoms of the dictionary."""
    sparsity: Sparsity
    """The rule that decides which latents are active."""
    origin: dict[str, Any] = Field(default_factory=dict)
    """What another program's folder said of its origin, kept for writing it again."""

    @model_validator(mode="after")
    def _enough_latents(self) -> Self:
        if (num_active(self.sparsity) or 0) > self.num_latents:
            raise ValueError(f"{self.sparsity!r} keeps more than the {self.num_latents} latents of the dictionary")
        return self

    def require(self, features: FeatureInfo) -> None:
        """Raise ValueError unless the features are of the kind that the autoencoder was trained on."""
        for name in ("width", "normalised", "backbone"):
            expected, found = getattr(self, name), getattr(features, name)
            if expected != found:
                raise ValueError(
                    f"this autoencoder was trained on features with {name}={expected!r}, got {name}={found!r}: "
                    f"stage features as it needs them, or train another one"
                )


class SAESpec(Value):
    """One autoencoder of a sweep."""

    sparsity: Sparsity
    """The rule that decides which latents are active."""
    expansion: float = Field(default=4.0, gt=0)
    """Latents per dimension of the features."""
    seed: int = Field(default=0, ge=0)
    """Draws the first atoms."""

    @property
    def name(self) -> str:
        """Short name, unlike that of any other autoencoder of a sweep that differs in size, rule or seed."""
        return f"{self.name_without_seed}-s{self.seed}"

    @property
    def name_without_seed(self) -> str:
        """Short name that autoencoders share which differ in their seed alone.

        Settings of the rule that few change follow its kind where they are not the defaults.
        """
        rule = self.sparsity
        changed = "".join(
            f"-{name}-{'-'.join(f'{part:g}' for part in (value if isinstance(value, tuple) else (value,)))}"
            for name, value in rule.model_dump(exclude_defaults=True).items()
            if name not in ("kind", varied(rule))
        )
        return f"{rule.kind}{changed}-{getattr(rule, varied(rule)):g}-x{self.expansion:g}"

    def info(self, features: FeatureInfo) -> SAEInfo:
        """The autoencoder as trained on these features."""
        num_latents = max(1, round(self.expansion * features.width))
        return SAEInfo(**features.model_dump(), num_latents=num_latents, sparsity=self.sparsity)


class SAETrainConfig(Value):
    """How the autoencoders of a sweep are trained; defaults are those of dictionary_learning and sparsify."""

    epochs: int | None = Field(default=30, ge=1)
    """Passes over the features; None if `steps` is given."""
    steps: int | None = Field(default=None, ge=1)
    """Steps in all; None if `epochs` is given."""
    batch_size: int = Field(default=4096, ge=1)
    """Feature vectors per step."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size of AdamW at its highest; None is 2e-4 / sqrt(num_latents / 2^14)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Pull of every parameter to zero, as in AdamW."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises in a straight line."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of all steps, the last ones, over which it falls to zero in a straight line."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest Euclidean norm of the gradient of one autoencoder; None clips nothing."""
    mean_start: bool = True
    """Start the bias at the mean feature, else at zero."""
    tied_start: bool = True
    """Start the encoder as the transposed decoder, else as torch.nn.Linear does."""
    unit_atoms: bool = True
    """Keep atoms at norm 1 in every step and drop the part of their gradient along them."""
    encoder_bias: bool = False
    """Learn an offset of each pre-activation."""
    auxk_weight: float = Field(default=1 / 32, ge=0)
    """Weight of the loss by which dead latents explain what the others leave over; 0 turns it off."""
    auxk: int | None = Field(default=None, ge=1)
    """Dead latents per example in that loss; None is half the feature width."""
    dead_after: float = Field(default=5.0, gt=0)
    """Passes over the features without firing after which a latent counts as dead."""
    resample: int | None = Field(default=None, ge=1)
    """Epochs after which, again and again, dead latents start anew as badly reconstructed examples; None is never."""
    seed: int = Field(default=0, ge=0)
    """Orders the batches, alike for all autoencoders of a sweep."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give epochs or steps and None for the other, got {self.epochs} and {self.steps}")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup and decay must sum to at most 1, got {self.warmup} and {self.decay}")
        return self

    def num_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def learning_rate_at(self, step: int, num_steps: int, num_latents: int) -> float:
        """The learning rate of a step, counted from 0."""
        peak = self.learning_rate or 2e-4 / math.sqrt(num_latents / 2**14)
        warmup, decay = round(self.warmup * num_steps), round(self.decay * num_steps)
        rise = (step + 1) / warmup if warmup else 1.0
        fall = (num_steps - step) / (decay + 1)
        return peak * min(1.0, rise, fall)


REFERENCE_RECIPE = SAETrainConfig(
    epochs=100,
    batch_size=1024,
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup=0,
    decay=0,
    clip_norm=None,
    mean_start=False,
    tied_start=False,
    unit_atoms=False,
    auxk_weight=0,
)
"""What the SAE-FT reference does, with TopK(k, signed=True); its loss is ours times a constant, which Adam ignores."""
