"""Configurations of the CLIP steps: every field changes the result, so every field is in the fingerprint.

Importable without torch: experiments build steps from these to be planned.
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from amalgam.pipeline.steps.configs import Config
from amalgam.tasks.clip.finetuning.config import FinetuneConfig, require_contrastive
from amalgam.tasks.clip.testing.test_sets import TestSet, check_test_sets
from amalgam.tasks.data.sources import Source
from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.sae.config import SAESpec, SAETrainConfig
from amalgam.tasks.training.config import TrainConfig


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


class ChosenSAE(Config):
    """One of the autoencoders of a step, and which features its reader gives it."""

    name: str
    """Its folder."""
    normalised: bool = True
    """Whether it is given features of norm 1; one that was trained on others is refused."""


class SAEsConfig(Config):
    """Sparse autoencoders trained in one pass over staged features."""

    specs: tuple[SAESpec, ...] = Field(min_length=1)
    training: SAETrainConfig
    normalised: bool = True
    """Whether features are scaled to norm 1 first, as heads read them; else they are as the encoder gave them."""

    @property
    def first(self) -> ChosenSAE:
        """The one that fine-tuning uses."""
        return ChosenSAE(name=self.specs[0].name, normalised=self.normalised)


class SAEQualityConfig(Config):
    """Autoencoders measured on the images of test sets, as the frozen encoder sees them."""

    saes: tuple[tuple[str, SAEsConfig], ...]
    """What each step of autoencoders is called, and what it has trained, in the order of the steps."""
    test_sets: tuple[TestSet, ...]

    @model_validator(mode="after")
    def _means_make_sense(self) -> "SAEQualityConfig":
        check_test_sets(self.test_sets)
        for name, saes in self.saes:
            if "/" in name or [one for one, _ in self.saes].count(name) > 1:
                raise ValueError(f"steps of autoencoders need names of their own, without '/', got {name!r}")
            if len({spec.model_copy(update={"seed": 0}) for spec in saes.specs}) > 1:
                raise ValueError(f"means are over the autoencoders of {name!r}: they may differ in their seed alone")
        return self


class TunedConfig(Config):
    """A classifier fine-tuned on labelled images."""

    labelled: LabelledConfig
    finetuning: FinetuneConfig
    sae: ChosenSAE | None = None
    """Which of the autoencoders; None where the regulariser needs none."""
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
