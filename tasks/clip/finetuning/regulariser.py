"""What a regulariser is: a weighted sum of terms of `tasks.clip.finetuning.terms`, as a value.

    loss = cross-entropy + strength x regulariser(drift)

A term is the batch mean of a sum over one image. In the form "reference_mean" the weight of a term is divided by how
many numbers that sum has, as in the public code of the paper (method page, section 3.3), so that its published weights
can be used; in the form "sum" it is not, so that weights mean the same at every width (section 3.4); "relative_sum" is
"reference_mean" times the width of the features: the weights of that code relative to each other, and a strength that
means the same at every width. `in_form` is the exact way from one to the other, `at_length` the one to features of
another length, such as raw ones. Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.clip.finetuning.drift import Drift

Reduction = Literal["sum", "relative_sum", "reference_mean"]
Input = Literal["features", "sae", "levels", "basis", "parameters"]

REMEDIES: dict[Input, str] = {
    "sae": "give a sparse autoencoder trained on the frozen features",
    "levels": "give the tokens inside both encoders, as ImageTower.with_levels does",
    "basis": "give principal directions of the frozen features, as principal_directions does",
    "parameters": "give the current and frozen parameters in pairs",
}


@dataclass(frozen=True)
class Sizes:
    """How many numbers the sum of a term has, for one image."""

    features: int
    """Width of the features."""
    latents: int = 0
    """Latents of the autoencoder."""
    components: int = 0
    """Principal directions."""
    channels: int = 0
    """Channels of a token inside the encoder."""
    one: int = 1
    """Of a term that the reference does not average."""

    @classmethod
    def of(cls, drift: Drift) -> Sizes:
        """Those of a drift."""
        return cls(
            features=drift.current.shape[1],
            latents=0 if drift.sae is None else len(drift.sae.decoder),
            components=0 if drift.basis is None else drift.basis.shape[1],
            channels=drift.levels[0][0].shape[-1] if drift.levels else 0,
        )


class Term(NamedTuple):
    """One term of a regulariser."""

    value: str
    """A function of `tasks.clip.finetuning.terms`."""
    weight: str
    """The field of the regulariser that multiplies it."""
    size: Literal["features", "latents", "components", "channels", "one"]
    """What its mean divides by, a field of `Sizes`."""
    reads: Input = "features"
    """What the drift must contain."""
    settings: tuple[str, ...] = ()
    """Fields of the regulariser that the function is given."""
    degree: int = 2
    """The power of the length of features that it grows with: 2 where a change is squared."""


class Regulariser(BaseModel):
    """A penalty on drift, called with it. Weights are relative to each other; all are multiplied by the strength."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    TERMS: ClassVar[tuple[Term, ...]] = ()
    LENGTHS: ClassVar[tuple[str, ...]] = ()
    """Settings that are in units of the features."""

    reduction: Reduction = "reference_mean"
    """Whether weights multiply sums over an image, sums in the reference's proportions, or the reference's means."""

    @property
    def needs(self) -> frozenset[Input]:
        """What a drift must contain beside features: of "sae", "levels", "basis", "parameters"."""
        return frozenset(term.reads for term in self._active if term.reads != "features")

    def __call__(self, drift: Drift) -> Tensor:
        """The penalty, a scalar with gradients to the current features."""
        return sum(self.parts(drift).values(), start=drift.current.new_zeros(()))

    def parts(self, drift: Drift) -> dict[str, Tensor]:
        """Each term times its weight, by the name of the term; terms of weight 0 are not computed."""
        import torch  # values must be importable without it

        from amalgam.tasks.clip.finetuning import terms

        for name in sorted(self.needs):
            if getattr(drift, name) in (None, ()):
                raise ValueError(f"{type(self).__name__} needs {name} in the drift: {REMEDIES[name]}")
        parts, sizes = {}, Sizes.of(drift)
        with torch.autocast(drift.current.device.type, enabled=False):
            for term in self._active:
                settings = {name: getattr(self, name) for name in term.settings}
                parts[term.value] = self._scale(term, sizes) * getattr(terms, term.value)(drift, **settings)
        return parts

    def in_form(self, reduction: Reduction, sizes: Sizes) -> Self:
        """The same penalty with its weights in another form, for drifts of these sizes."""
        wanted = self.model_copy(update={"reduction": reduction})
        weights = {t.weight: self._scale(t, sizes) / wanted._multiple(t, sizes) for t in self._active}
        return wanted.model_copy(update=weights)

    def at_length(self, length: float) -> Self:
        """The penalty that is on features `length` times as long what this one is on those of norm 1."""
        weights = {term.weight: getattr(self, term.weight) / length**term.degree for term in self._active}
        return self.model_copy(update=weights | {name: getattr(self, name) * length for name in self.LENGTHS})

    @property
    def _active(self) -> tuple[Term, ...]:
        return tuple(term for term in self.TERMS if getattr(self, term.weight))

    def _scale(self, term: Term, sizes: Sizes) -> float:
        weight: float = getattr(self, term.weight)
        return weight * self._multiple(term, sizes)

    def _multiple(self, term: Term, sizes: Sizes) -> float:
        """What a weight is multiplied by."""
        if self.reduction == "sum" or term.size == "one":
            return 1.0
        return (sizes.features if self.reduction == "relative_sum" else 1) / _size(term, sizes)


def strength_at_width(strength: float, width: int, other: int) -> float:
    """The strength that is at width `other` what this one is at `width`, both in the form "reference_mean".

    Exact for terms that the reference averages, at equally many latents per dimension.
    """
    return strength * other / width


def _size(term: Term, sizes: Sizes) -> int:
    size: int = getattr(sizes, term.size)
    if size < 1:
        raise ValueError(f"the number of {term.size} is needed to average {term.value}, got {size}")
    return size
