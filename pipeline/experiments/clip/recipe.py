"""What a robustness experiment may choose, as data; `robust_graph` makes steps of it. Importable without torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.variants import VARIANTS, Variant, from_file, variant
from amalgam.pipeline.steps.clip.explanation import ExplainConfig
from amalgam.pipeline.steps.clip.saes import SAEsConfig
from amalgam.tasks.clip.testing.test_sets import Role, TestSet
from amalgam.tasks.data.sources import LabelledConfig, Source
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import is_in_file

MEGA = 1_000_000
Anchoring = Literal["live", "views", "clean"]
"""Where frozen features come from: computed beside training, staged for every view, or staged once unaugmented."""
AnchorFlag = Annotated[
    Anchoring, "Frozen features: computed live, cached for every view, or cached once for clean images."
]


@dataclass(frozen=True)
class Seeded:
    """What a seed changes."""

    backbone: Step
    labelled: LabelledConfig
    test_sets: tuple[TestSet, ...]
    unlabelled: Source | None = None
    """Images of other domains, for methods that penalise drift on those."""


@dataclass(frozen=True)
class Prices:
    """What steps of an experiment roughly cost, until records of such steps exist."""

    classifier_bytes: int = MEGA
    tuning_seconds: float = 10
    testing_seconds: float = 10
    features_seconds: float = 3
    features_bytes: int = MEGA


@dataclass(frozen=True)
class RobustRecipe:
    """Everything a robustness experiment may choose."""

    title: str
    settings: dict[str, str]
    """Every choice in words, for readers of the report."""
    derived: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Those of them that nobody gave: they are printed before anything runs."""
    seeded: Callable[[int], Seeded]
    seeds: int
    first_seed: int
    class_names: tuple[str, ...]
    templates: tuple[str, ...] | str
    methods: tuple[str, ...]
    """Fine-tuning methods, names in `variants`; a user-supplied regulariser, `file.py:NAME`, is called NAME."""
    factors: tuple[float, ...]
    """The grid of strengths, the same for all of them."""
    training: TrainConfig
    anchoring: Anchoring
    saes: SAEsConfig
    """The first one is what explanations use, drift is measured by, and methods without their own are fine-tuned with.

    They are trained where a method or an explanation needs them: measuring drift alone is not worth encoding every
    image.
    """
    alphas: tuple[float, ...]
    tolerance: float
    strength_form: Literal["mean", "sum"] = field(default="mean", kw_only=True)
    """Whether strengths multiply means over the features, or sums, which mean the same at every width."""
    strength_inputs: Literal["own", "unit"] = field(default="own", kw_only=True)
    """Whether strengths are meant for what autoencoders read, or for features of norm 1 and converted."""
    compare: tuple[str, ...] = field(default=(), kw_only=True)
    """Two of the methods that the report compares at equal in-distribution accuracy; empty compares none."""
    variants: Mapping[str, Variant] = field(default_factory=lambda: VARIANTS)
    """All fine-tuning methods that there are to choose from, by name."""
    sae_roles: tuple[Role, ...] = ()
    """Roles of the test sets that autoencoders are measured on; empty measures them on what they learnt from alone."""
    compare_preparations: bool = False
    """Whether zero-shot is compared, on labelled images, with what it would be if pictures were prepared otherwise."""
    compiled: bool = False
    """Whether networks are compiled before they are fine-tuned."""
    num_parts: int = 1
    """Shares of the images that are encoded side by side."""
    explanation: ExplainConfig | None = None
    """What to look at in the first seed's network; None explains nothing."""
    explained: tuple[str, ...] = ()
    """Fine-tuning methods that are explained, at the middle of the grid."""
    prices: Prices = Prices()

    def __post_init__(self) -> None:
        self._read_files()
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if not self.factors or min(self.factors) <= 0:
            raise ValueError(f"strengths must be positive, got {self.factors}")
        if not self.methods:
            raise ValueError("give at least one method, such as --methods ft,sae-mask")
        for name in (*self.methods, *self.explained):
            self.variant(name)
        for what, values in (
            ("method", self.methods),
            ("strength", self.factors),
            ("explained method", self.explained),
        ):
            if twice := [one for index, one in enumerate(values) if one in values[:index]]:
                raise ValueError(f"{what} {twice[0]} appears twice")
        if untried := [name for name in self.compare if name not in self.methods]:
            raise ValueError(f"--compare names {untried[0]!r}, which is not among --methods")
        if 1.0 not in self.alphas:
            raise ValueError(f"alphas must end with 1, the fine-tuned network itself, got {self.alphas}")
        if self.explained and self.explanation is None:
            raise ValueError(f"{self.explained[0]!r} cannot be explained: there are no images to explain it on")
        if self.explained and not self.saes.normalised:
            raise ValueError(
                "explanations need autoencoders of features of norm 1: set normalised, or explain no method"
            )
        if "soup" in [self.variant(name).kind for name in self.explained]:
            raise ValueError("a soup is an average and cannot be explained: explain the networks that it averages")

    def _read_files(self) -> None:
        """Take regularisers of users' files among the variants, under their own names."""
        named = {text: from_file(text, self.variants) for text in self.methods if is_in_file(text)}
        methods = tuple(named[text][0] if text in named else text for text in self.methods)
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "variants", {**self.variants, **dict(named.values())})

    @property
    def uses_saes(self) -> bool:
        """Whether anything is explained, or fine-tuned with autoencoders."""
        return bool(self.explained) or any(self.variant(name).reads_codes for name in self.methods)

    def variant(self, name: str) -> Variant:
        """The fine-tuning method of that name. Raises ValueError, with near names, if there is none."""
        return variant(name, self.variants)
