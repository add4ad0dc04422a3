"""The fine-tuning methods that robustness experiments compare, by the names under which reports show them.

All are tuned on one grid of factors; a factor times the variant's base strength is lambda, so that the middle of the
grid is about as strong for one as for another. Importable without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from amalgam.pipeline.steps.clip.saes import SAEsConfig
from amalgam.pipeline.steps.clip.selection import Rules
from amalgam.tasks.clip.finetuning.regulariser import Regulariser
from amalgam.tasks.clip.finetuning.regularisers import (
    L1,
    L2,
    L2SP,
    LDIFS,
    PCA,
    AddRemove,
    NoPenalty,
    Nuclear,
    OffSupport,
    OffSupportAddRemove,
    OffSupportLatents,
    SAEMask,
    SparseChange,
    SparseKL,
    SparseWasserstein,
    SquaredHingeNuclear,
    SupportHinge,
    Unfollowed,
)
from amalgam.tasks.training.config import DFR, JTT, GroupDRO
from amalgam.tasks.user_names import load_name, unknown_name

Procedure = Literal["plain", "head", "head first", "contrastive", "soup"]


@dataclass(frozen=True)
class Variant:
    """One fine-tuning method."""

    about: str
    """What it is, for tables and help pages."""
    regulariser: Regulariser = field(default_factory=NoPenalty)
    base_strength: float = 1.0
    """Lambda at a factor of 1, or where the search for a wanted overlap begins; 1 where strengths are those of the
    paper's public code."""
    kind: Procedure = "plain"
    """What is trained: everything, the head, the head and then everything, both towers on prompts, or nothing more:
    a soup of what the other methods of the sweep have trained."""
    anchor_on: Literal["labelled", "unlabelled", "both"] = "labelled"
    """Images on which drift is penalised; unlabelled ones are of other domains."""
    saes: SAEsConfig | None = None
    """Autoencoders of its own, of which it uses the first; None takes those of the sweep."""
    mixed: bool = False
    """Whether its autoencoder was trained on unlabelled images of other domains too."""
    rules: Rules | None = None
    """Which latents its regulariser forbids and keeps; None where it selects none."""
    robust: GroupDRO | JTT | DFR | None = None
    """How training cares for the worst group."""
    overlap: float | None = None
    """Wanted share of active latents that stay; the strength that gives it is found in training."""

    @property
    def is_penalised(self) -> bool:
        """Whether drift is penalised."""
        return not isinstance(self.regulariser, NoPenalty)

    @property
    def is_swept(self) -> bool:
        """Whether it has a strength to choose."""
        return self.is_penalised and self.overlap is None

    @property
    def reads_codes(self) -> bool:
        """Whether it needs a sparse autoencoder."""
        return "sae" in self.regulariser.needs or self.overlap is not None or self.rules is not None


VARIANTS: dict[str, Variant] = {
    "ft": Variant("plain fine-tuning of all weights"),
    "lp": Variant("linear probe: only the head is trained", kind="head"),
    "lp-ft": Variant("linear probe, then all weights (LP-FT, Kumar et al. 2022)", kind="head first"),
    "flyp": Variant("contrastive fine-tuning on the labels' prompts (FLYP, Goyal et al. 2023)", kind="contrastive"),
    "soup": Variant("greedy soup of all fine-tuned networks of the sweep (Wortsman et al. 2022)", kind="soup"),
    "l2": Variant("squared L2 distance of features", L2()),
    "l1": Variant("L1 distance of features", L1()),
    "nuclear": Variant("nuclear norm of the feature changes of a batch", Nuclear(), base_strength=0.003),
    "nuclear-hinge": Variant("squared hinge on that nuclear norm", SquaredHingeNuclear(), base_strength=0.003),
    "l2-sp": Variant("squared L2 distance of weights (L2-SP, Li et al. 2018)", L2SP(), base_strength=0.0001),
    "ldifs": Variant("squared L2 distance of tokens at five depths (LDIFS, Mukhoti et al. 2024)", LDIFS()),
    "pca": Variant("feature changes along and orthogonal to principal components", PCA()),
    "sae": Variant("L1 change of SAE latents, and of the SAE residual", SparseChange()),
    "sae-wasserstein": Variant("the same, and converged entropic transport between atoms", SparseWasserstein()),
    "sae-kl": Variant("the same, and KL divergence of activations", SparseKL()),
    "sae-mask": Variant("SAE-FT: penalises new latents and the residual (Morelli et al. 2026)", SAEMask()),
    "add-remove": Variant("SAE-FT that penalises the loss of active latents too", AddRemove()),
    "hinge": Variant("SAE-FT made continuous by a hinge below the top-k threshold", SupportHinge()),
    "off-support": Variant("squared change outside the span of the image's active atoms", OffSupport()),
    "off-support-latents": Variant("the same, latent by latent", OffSupportLatents()),
    "off-support-add-remove": Variant("increases of inactive and decreases of active latents", OffSupportAddRemove()),
    "selective": Variant("chosen latents must not be added, or not be removed; the rest is free", Unfollowed(), 0.1),
    "group-dro": Variant("weights of groups that rise with their losses (Sagawa et al. 2020)", robust=GroupDRO()),
    "jtt": Variant("trained twice, errors of the first time repeated (JTT, Liu et al. 2021)", robust=JTT()),
    "dfr": Variant("ft, and its head anew on balanced groups (DFR, Kirichenko et al. 2023)", robust=DFR()),
    "sae-overlap": Variant("SAE-FT at the strength that keeps 70 % of the active latents", SAEMask(), 100, overlap=0.7),
    "sae-mask-mixed": Variant("SAE-FT with an SAE trained on other domains too", SAEMask(), mixed=True),
    "l2-unlabelled": Variant("squared L2 distance on unlabelled images of other domains", L2(), anchor_on="unlabelled"),
    "sae-unlabelled": Variant(
        "L1 change of SAE latents on those images", SparseChange(latents=1.0), anchor_on="unlabelled"
    ),
}

Methods = Annotated[
    tuple[str, ...], f"Methods: {', '.join(VARIANTS)}, or file.py:NAME for a user-supplied regulariser."
]
"""The flag that chooses some of them."""


def from_file(text: str, known: Mapping[str, Variant] = VARIANTS) -> tuple[str, Variant]:
    """The regulariser that `path/to/file.py:NAME` names, a class or a value, and what reports call it.

    Raises ValueError if it is no regulariser, or if one of that name exists already.
    """
    name, found = text.rpartition(":")[2], load_name(text, "regulariser")
    value = found() if isinstance(found, type) and issubclass(found, Regulariser) else found
    if not isinstance(value, Regulariser):
        raise ValueError(
            f"{text} is no regulariser: it must be a class derived from {Regulariser.__module__}.Regulariser, or a "
            "value of such a class"
        )
    if name in known:
        raise ValueError(f"{text} has the name of an existing method: rename it")
    about = (type(value).__doc__ or name).strip().partition("\n")[0].rstrip(".")
    return name, Variant(about, value)


def variant(name: str, known: Mapping[str, Variant] = VARIANTS) -> Variant:
    """The variant of that name. Raises ValueError, with near names, if there is none."""
    if name not in known:
        raise unknown_name("fine-tuning method", name, known)
    return known[name]
