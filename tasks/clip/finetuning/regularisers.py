"""The regularisers, as values: penalties on the drift of features from the frozen ones (method page, 3.3 and 13.4).

In quotes, the name that the public code of the paper gives it. Defaults are the weights of that code, which belong to
the form "reference_mean".
"""

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from amalgam.tasks.clip.finetuning.regulariser import Regulariser, Term


class _Single(Regulariser):
    """One term."""

    weight: float = Field(default=1.0, ge=0)
    """Multiplies the term; a strength of 1 leaves all to it."""


class NoPenalty(Regulariser):
    """Nothing: plain fine-tuning."""


class L2(_Single):
    """Squared distance of features, the tuned baseline of everything else ("mse" in the reference)."""

    TERMS = (Term("squared_change", "weight", "features"),)


class L1(_Single):
    """Absolute distance of features ("l1")."""

    TERMS = (Term("absolute_change", "weight", "features", degree=1),)


class Nuclear(_Single):
    """Nuclear norm of the batch of changes ("nuclear"); the reference does not average it, so both forms are one."""

    TERMS = (Term("nuclear_norm", "weight", "one", degree=1),)


class SquaredHingeNuclear(_Single):
    """Square of what the nuclear norm exceeds a ceiling by ("quadratic_nuclear"); both forms are one."""

    TERMS = (Term("excess_nuclear_norm", "weight", "one", settings=("ceiling",)),)

    LENGTHS = ("ceiling",)

    ceiling: float = Field(default=10.0, ge=0)
    """Nuclear norm up to which nothing is penalised, in units of the features."""


class LDIFS(_Single):
    """Squared distance of unit tokens at five depths (Mukhoti et al. 2024; "ldifs")."""

    TERMS = (Term("level_change", "weight", "channels", "levels", degree=0),)


class PCA(Regulariser):
    """Changes along the principal directions of the frozen features, and outside them ("pca")."""

    TERMS = (
        Term("subspace_change", "inside", "components", "basis", degree=1),
        Term("off_subspace_change", "outside", "features", "basis"),
    )

    inside: float = Field(default=1e-3, ge=0)
    """Weight of the absolute change along each direction."""
    outside: float = Field(default=1.0, ge=0)
    """Weight of the squared change outside them."""


class _WithResidual(Regulariser):
    """Terms of codes beside the residual, which penalises drift in what the autoencoder does not explain."""

    RESIDUAL: ClassVar[Term] = Term("unexplained_change", "residual", "features", "sae")

    residual: float = Field(default=1.0, ge=0)
    """mu: weight of the squared change of what the autoencoder does not explain."""


class SparseChange(_WithResidual):
    """Absolute change of every latent, and the residual ("sae")."""

    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("latent_change", "latents", "latents", "sae", degree=1),
        _WithResidual.RESIDUAL,
    )

    latents: float = Field(default=1e-3, ge=0)
    """lambda_1: weight of the absolute change of latents."""


class SparseWasserstein(SparseChange):
    """SparseChange and the cost of carrying activations between atoms ("sae_w"), by the converged plan."""

    TERMS = (
        *SparseChange.TERMS,
        Term("transport_cost", "transport", "one", "sae", ("epsilon",), degree=0),
    )

    transport: float = Field(default=0.1, ge=0)
    """Weight of the transport cost, which is between 0 and 2."""
    epsilon: float = Field(default=0.05, gt=0)
    """Temperature of the entropic plan, in units of 1 - cosine."""


class SparseKL(SparseChange):
    """SparseChange and the divergence of the activations from the frozen ones ("sae_kl")."""

    TERMS = (*SparseChange.TERMS, Term("divergence", "divergence", "one", "sae", degree=0))

    divergence: float = Field(default=0.1, ge=0)
    """Weight of the Kullback-Leibler divergence, in nats."""


class SAEMask(_WithResidual):
    """The paper's SAE-FT: no new latents, and the residual stays (Morelli et al. 2026; "sae_mask")."""

    TERMS: ClassVar[tuple[Term, ...]] = (Term("new_latents", "new", "latents", "sae", degree=1), _WithResidual.RESIDUAL)

    new: float = Field(default=10.0, ge=0)
    """lambda_mask: weight of activation on latents that were inactive."""


class AddRemove(SAEMask):
    """SAEMask that also asks active latents not to fade ("sae_add_remove")."""

    TERMS = (*SAEMask.TERMS, Term("lost_latents", "lost", "latents", "sae", degree=1))

    lost: float = Field(default=0.02, ge=0)
    """lambda_remove: weight of activation lost by latents that were active."""


class SupportHinge(_WithResidual):
    """SAEMask without its jump: inactive latents are pushed below the active ones before they pass them (13.4.1)."""

    TERMS = (Term("support_excess", "excess", "latents", "sae", ("margin",), degree=1), _WithResidual.RESIDUAL)

    LENGTHS = ("margin",)

    excess: float = Field(default=10.0, ge=0)
    """Weight of what inactive latents exceed the least active one by."""
    margin: float = Field(default=0.0, ge=0)
    """How far below it they are to stay, in units of activation; above 0 also features that have not moved pay."""


class OffSupport(Regulariser):
    """Squared change outside the span of an image's active atoms, free inside: re-weight what is there, add nothing."""

    TERMS = (
        Term("off_support_change", "outside", "features", "sae"),
        Term("on_support_change", "inside", "features", "sae"),
    )

    outside: float = Field(default=1.0, ge=0)
    """Weight of the change that the active atoms do not make."""
    inside: float = Field(default=0.0, ge=0)
    """Weight of the change along them; equal to `outside` this is L2."""


class OffSupportLatents(_Single):
    """OffSupport counted latent by latent: the change along each inactive atom."""

    TERMS = (Term("off_support_latents", "weight", "latents", "sae"),)


class OffSupportAddRemove(Regulariser):
    """Increases along inactive atoms, and decreases of the coefficients of active ones."""

    TERMS = (
        Term("added_latents", "added", "latents", "sae"),
        Term("removed_latents", "removed", "latents", "sae"),
    )

    added: float = Field(default=1.0, ge=0)
    """Weight of squared increases along inactive atoms."""
    removed: float = Field(default=0.02, ge=0)
    """Weight of squared decreases of active ones."""


class Selective(_Single):
    """What may come, what must stay: increases of forbidden latents and decreases of kept ones; the rest is free."""

    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("selected_change", "weight", "one", "sae", ("forbid", "keep", "others", "weights")),
    )

    forbid: tuple[NonNegativeInt, ...] = ()
    """Latents along whose atoms features must not grow."""
    keep: tuple[NonNegativeInt, ...] = ()
    """Latents along whose atoms features must not shrink."""
    others: float = Field(default=0.0, ge=0)
    """Weight of the change along all other atoms, in units of that of the selected ones."""
    weights: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = ()
    """Weight of single latents that are forbidden or kept, where it is not 1."""

    @model_validator(mode="after")
    def _rules_agree(self) -> "Selective":
        if both := sorted(set(self.forbid) & set(self.keep)):
            raise ValueError(f"latent {both[0]} is both forbidden and kept: choose one")
        if free := [latent for latent, _ in self.weights if latent not in (*self.forbid, *self.keep)]:
            raise ValueError(f"latent {free[0]} has a weight, but is neither forbidden nor kept")
        return self

    @property
    def _active(self) -> tuple[Term, ...]:
        return super()._active if self.forbid or self.keep or self.others else ()


class Unfollowed(Selective):
    """What changes must not follow forbidden latents: neither may they come, nor may others come with them."""

    TERMS = (*Selective.TERMS, Term("followed_change", "follow", "one", "sae", ("forbid",)))

    follow: float = Field(default=1.0, ge=0)
    """Weight of the change that the activity of forbidden latents predicts, in units of squared change of features."""


class L2SP(_Single):
    """Squared distance of the parameters from the frozen ones (Li et al. 2018); both forms are one."""

    TERMS = (Term("parameter_change", "weight", "one", "parameters", degree=0),)


REGULARISERS: tuple[type[Regulariser], ...] = (
    NoPenalty,
    L2,
    L1,
    Nuclear,
    SquaredHingeNuclear,
    LDIFS,
    PCA,
    SparseChange,
    SparseWasserstein,
    SparseKL,
    SAEMask,
    AddRemove,
    SupportHinge,
    OffSupport,
    OffSupportLatents,
    OffSupportAddRemove,
    Selective,
    Unfollowed,
    L2SP,
)
"""Every regulariser, for names on the command line, property tests and documentation."""
