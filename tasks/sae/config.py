"""Sparse autoencoders as data: the sparsity rule, what an autoencoder is for, and how many are trained.

Importable without torch, so that plans and help pages are instant.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TopK(_Value):
    """Keep the k largest pre-activations of every example (Gao et al. 2024, arXiv:2406.04093)."""

    kind: Literal["topk"] = "topk"
    k: int = Field(ge=1)
    """Latents kept per example."""
    signed: bool = False
    """Keep negative pre-activations where fewer than k are positive, as the SAE-FT reference does."""


class BatchTopK(_Value):
    """Keep the (k x batch) largest pre-activations of a batch (Bussmann et al. 2024, arXiv:2412.06410).

    Which latents an example keeps then depends on its neighbours; outside training a fixed threshold replaces them.
    """

    kind: Literal["batch_topk"] = "batch_topk"
    k: int = Field(ge=1)
    """Latents kept per example, on average."""
    memory: float = Field(default=0.999, ge=0, lt=1)
    """Share of the running threshold that survives a step; less in early steps, so that they are soon forgotten."""


class JumpReLU(_Value):
    """Keep what exceeds a learnt threshold of each latent (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

    kind: Literal["jump_relu"] = "jump_relu"
    target_l0: float = Field(gt=0)
    """Latents per example that training aims at; the loss has weight * (L0 / target - 1)^2."""
    bandwidth: float = Field(default=1e-3, gt=0)
    """Width of the rectangle through which a threshold feels pre-activations; in units of pre-activations."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the sparsity term beside an FVU that starts near 1."""
    start: float = Field(default=1e-3, ge=0)
    """Every threshold before training."""


class Matryoshka(_Value):
    """TopK whose first latents must do on their own (Bussmann et al. 2025, arXiv:2503.17547)."""

    kind: Literal["matryoshka"] = "matryoshka"
    k: int = Field(ge=1)
    """Latents kept per example."""
    prefixes: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of all latents that must reconstruct without the rest; rising, the last one 1."""

    @model_validator(mode="after")
    def _prefixes_rise_to_one(self) -> Self:
        rising = all(a < b for a, b in zip((0.0, *self.prefixes), self.prefixes, strict=False))
        if not rising or self.prefixes[-1:] != (1.0,):
            raise ValueError(f"prefixes must rise from above 0 to 1.0, got {self.prefixes}")
        return self


Sparsity = Annotated[TopK | BatchTopK | JumpReLU | Matryoshka, Field(discriminator="kind")]
SPARSITIES: tuple[type[_Value], ...] = (TopK, BatchTopK, JumpReLU, Matryoshka)
"""Every rule, for names on the command line, property tests and documentation."""


def num_active(sparsity: Sparsity) -> float:
    """Latents that an example keeps, on average or at most."""
    return sparsity.target_l0 if isinstance(sparsity, JumpReLU) else sparsity.k


def family(sparsity: Sparsity) -> tuple[Any, ...]:
    """What autoencoders must share, besides the number of latents, to be trained as one stack of tensors."""
    rest = sparsity.model_dump(exclude={"k", "target_l0"})
    return tuple(sorted(rest.items()))


class FeatureInfo(_Value):
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

    @model_validator(mode="after")
    def _enough_latents(self) -> Self:
        if num_active(self.sparsity) > self.num_latents:
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


class SAESpec(_Value):
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
            if name not in ("kind", "k", "target_l0")
        )
        return f"{rule.kind}{changed}-{num_active(rule):g}-x{self.expansion:g}"

    def info(self, features: FeatureInfo) -> SAEInfo:
        """The autoencoder as trained on these features."""
        num_latents = max(1, round(self.expansion * features.width))
        return SAEInfo(**features.model_dump(), num_latents=num_latents, sparsity=self.sparsity)


class SAETrainConfig(_Value):
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
