"""Configurations of the fusion steps: every field changes the result, so every field is in the fingerprint.

Importable without torch: experiments build steps from these to be planned.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import Split
from amalgam.tasks.fusion import Method
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.training.config import TrainConfig

EvaluationKind = Literal["member", "logit ensemble", "probability ensemble"]
StageDtype = Literal["float16", "float32"]


class Config(BaseModel):
    """A frozen configuration that knows every field it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SampleConfig(Config):
    """Who may see which images of the training split; the test split is read by evaluations alone."""

    data: DataSpec
    seed: int
    """Draws the validation images, the members' shares and the probe."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training split held out from all members, to choose epochs by."""


class MemberConfig(Config):
    """One member of an ensemble."""

    sample: SampleConfig
    model: ModelSpec
    split: SerializeAsAny[Split]
    training: TrainConfig
    num_members: int = Field(ge=1)
    member: int = Field(ge=0)
    """Which of the members this is, from 0."""
    seed: int
    """Draws the initial weights, the order of images and the augmentation."""


class ProbeConfig(Config):
    """Unlabelled, unaugmented training images: activations and calibration are measured on them."""

    sample: SampleConfig
    num_rows: int = Field(default=1000, ge=2)
    """Images drawn from those that members may be trained on."""


class ActivationsConfig(Config):
    """Activations of one member on the probe."""

    probe: ProbeConfig
    grid: int = Field(default=2, ge=1)
    """Feature maps are pooled to at most grid x grid positions."""
    dtype: StageDtype = "float32"
    """How activations are stored."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass; it sets how sums are rounded."""


class MatchingConfig(Config):
    """A sweep of matchings, each started from the one before."""

    methods: tuple[SerializeAsAny[Method], ...]


class EvaluationConfig(Config):
    """A network, or an ensemble of members, on the test split."""

    data: DataSpec
    seed: int
    """The sample its members come from: what is averaged over in reports."""
    member: int | None = None
    weights: tuple[float, ...] = ()
    """One per member of an ensemble; empty for a single network."""
    kind: EvaluationKind = "member"


class FusedConfig(Config):
    """One fused network, evaluated on the test split."""

    method: SerializeAsAny[Method]
    weights: tuple[float, ...]
    """One per member; they sum to 1."""
    probe: ProbeConfig
    recalibrated: bool = False
    """Whether batch norms are recalibrated (or, without batch norm, layers repaired) on the probe."""


class FinetunedConfig(Config):
    """A member or a fused network trained a little more, its structural zeros kept."""

    network: EvaluationConfig | FusedConfig
    """What it is."""
    sample: SampleConfig
    share: float = Field(gt=0, lt=1)
    """Share of the images that members may be trained on, with labels, that it is fine-tuned on."""
    training: TrainConfig
    seed: int
    """Draws those images, their order and their augmentation."""


class ReportConfig(Config):
    """A report over evaluated networks."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""
