"""Configurations of the CLIP steps: every field changes the result, so every field is in the fingerprint.

Importable without torch: experiments build steps from these to be planned.
"""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.steps.configs import Config
from tasks.clip.finetune_config import FinetuneConfig, require_contrastive
from tasks.data.sources import Source
from tasks.models.clip_spec import ClipSpec
from tasks.sae.config import SAESpec, SAETrainConfig
from tasks.train_config import TrainConfig


class OpenedConfig(Config):
    """A CLIP whose weights are on this machine."""

    clip: ClipSpec
    digest: str = ""
    """16 hex digits of the SHA-256 of its file of weights; empty where a tag names them."""


class ZeroShotConfig(Config):
    """An image tower and a head made of words."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...] | str
    """Sentences with a slot {}, or the name of a set: openai, simple."""


class LabelledConfig(Config):
    """Images with labels to fine-tune on, some of them held out."""

    source: Source
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share held out to choose epochs, strengths and alphas by; stratified by class."""
    seed: int = 0
    """Draws which."""


class SAEsConfig(Config):
    """Sparse autoencoders trained in one pass over staged features."""

    specs: tuple[SAESpec, ...]
    training: SAETrainConfig


class TunedConfig(Config):
    """A classifier fine-tuned on labelled images."""

    labelled: LabelledConfig
    finetuning: FinetuneConfig
    sae: str | None = None
    """Which of the autoencoders, by name; None where the regulariser needs none."""
    clean_anchors: bool = False
    """Whether features are held to those of untouched pictures whatever view is trained on: an approximation."""
    components: int | None = Field(default=None, ge=1)
    """Principal directions of the staged features, for PCA."""
    unlabelled: Source | None = None
    """Images whose labels are not read, on which features are held too or instead."""
    compiled: bool = False
    """Whether torch.compile makes the network faster first; it rounds otherwise."""
    seed: int
    """Orders the images."""


class ContrastiveConfig(Config):
    """Both towers fine-tuned on pairs of images and the prompts of their labels (FLYP)."""

    labelled: LabelledConfig
    training: TrainConfig
    class_names: tuple[str, ...]
    templates: tuple[str, ...] | str
    seed: int

    @field_validator("training")
    @classmethod
    def _batches_are_whole(cls, training: TrainConfig) -> TrainConfig:
        require_contrastive(training)
        return training


Anchoring = Literal["live", "views", "clean"]
"""Where frozen features come from: computed beside training, staged for every view, or staged once unaugmented."""
