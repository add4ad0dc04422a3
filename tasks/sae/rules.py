"""The sparsity rules: which latents of a sparse autoencoder are active. Importable without torch.

Every rule has one field without a default: the number that a sweep varies.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Nested(Value):
    """A rule whose first latents must do on their own, where `prefixes` has more than 1."""

    prefixes: tuple[float, ...] = (1.0,)
    """Shares of all latents that must reconstruct without the rest; rising, the last one 1."""

    @model_validator(mode="after")
    def _prefixes_rise_to_one(self) -> Self:
        rising = all(a < b for a, b in zip((0.0, *self.prefixes), self.prefixes, strict=False))
        if not rising or self.prefixes[-1:] != (1.0,):
            raise ValueError(f"prefixes must rise from above 0 to 1.0, got {self.prefixes}")
        return self


class TopK(Value):
    """Keep the k largest pre-activations of every example (Gao et al. 2024, arXiv:2406.04093)."""

    kind: Literal["topk"] = "topk"
    k: int = Field(ge=1)
    """Latents kept per example."""
    signed: bool = False
    """Keep negative pre-activations where fewer than k are positive, as the SAE-FT reference does."""


class BatchTopK(Nested):
    """Keep the (k x batch) largest pre-activations of a batch (Bussmann et al. 2024, arXiv:2412.06410).

    Which latents an example keeps then depends on its neighbours; outside training a fixed threshold replaces them.
    With `prefixes` it is the Matryoshka BatchTopK of arXiv:2503.17547.
    """

    kind: Literal["batch_topk"] = "batch_topk"
    k: int = Field(ge=1)
    """Latents kept per example, on average."""
    memory: float = Field(default=0.999, ge=0, lt=1)
    """Share of the running threshold that survives a step; less in early steps, so that they are soon forgotten."""


class JumpReLU(Value):
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


class Matryoshka(Nested):
    """TopK whose first latents must do on their own (Bussmann et al. 2025, arXiv:2503.17547)."""

    kind: Literal["matryoshka"] = "matryoshka"
    k: int = Field(ge=1)
    """Latents kept per example."""
    prefixes: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """As of BatchTopK."""


class ReLU(Value):
    """Keep every positive pre-activation and penalise their sum (Bricken et al. 2023): SAELens's `standard`."""

    kind: Literal["relu"] = "relu"
    l1: float = Field(gt=0)
    """Weight of the mean over examples of sum(activation * norm of its atom) / deviation of the features, beside an
    FVU that starts near 1; the deviation is the root of the mean squared distance from the mean feature."""


class Gated(Value):
    """One encoder decides which latents are active, its rescaled form how much (Rajamanoharan et al. 2024a,
    arXiv:2404.16014); the penalty then does not shrink activations."""

    kind: Literal["gated"] = "gated"
    l1: float = Field(gt=0)
    """As of ReLU, of the gate's positive pre-activations."""


Sparsity = Annotated[
    TopK | BatchTopK | JumpReLU | Matryoshka | ReLU | Gated,
    Field(discriminator="kind"),
]
SPARSITIES: tuple[type[Value], ...] = (TopK, BatchTopK, JumpReLU, Matryoshka, ReLU, Gated)
"""Every rule, for names on the command line, property tests and documentation."""


def varied(sparsity: Value) -> str:
    """The field that a sweep varies: k, target_l0 or l1."""
    return next(name for name, field in type(sparsity).model_fields.items() if field.is_required())


def num_active(sparsity: Sparsity) -> float | None:
    """Latents that an example keeps, on average or at most; None where a penalty decides."""
    return None if isinstance(sparsity, ReLU | Gated) else getattr(sparsity, varied(sparsity))


def family(sparsity: Sparsity) -> tuple[Any, ...]:
    """What autoencoders must share, besides the number of latents, to be trained as one stack of tensors."""
    rest = sparsity.model_dump(exclude={varied(sparsity)})
    return tuple(sorted(rest.items()))
