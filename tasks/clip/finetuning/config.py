"""How a CLIP is fine-tuned, as data; `tasks.clip.finetuning.finetune` reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from amalgam.tasks.clip.finetuning.regulariser import Regulariser
from amalgam.tasks.clip.finetuning.regularisers import NoPenalty
from amalgam.tasks.training.config import TrainConfig

RECIPE = TrainConfig(
    epochs=10,
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-5,
    weight_decay=0.1,
    schedule="cosine",
    warmup_steps=500,
    augment="resized_crop",
    clip_norm=1.0,
)
"""The settings of the paper's public code for ImageNet (method page, section 5)."""


def require_contrastive(config: TrainConfig) -> None:
    """Raise ValueError for settings that contrastive fine-tuning gives no or another meaning."""
    for name, neutral in (("accumulate", 1), ("label_smoothing", 0)):
        if getattr(config, name) != neutral:
            raise ValueError(f"contrastive fine-tuning compares all images of a batch: {name} must be {neutral}")


class FinetuneConfig(BaseModel):
    """Settings of one fine-tuning run: loss = cross-entropy + strength x regulariser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig = RECIPE
    """Everything about the optimisation."""
    trained: Literal["everything", "head", "encoder"] = "everything"
    """What learns: encoder and head, the head alone (a linear probe; LP-FT is a probe, then everything), or the encoder
    alone, behind a fixed head."""
    regulariser: SerializeAsAny[Regulariser] = NoPenalty()
    """The penalty on the drift of features from those of the frozen encoder."""
    strength: float = Field(default=1.0, ge=0)
    """lambda: multiplies the regulariser; at 0 it is not computed, and fine-tuning is the plain one to the bit."""
    anchor_on: Literal["labelled", "unlabelled", "both"] = "labelled"
    """Images on which feature drift is penalised: those that are trained on, as many others, or both."""
    overlap: float | None = Field(default=None, gt=0, lt=1)
    """Wanted share of latents that stay active, the mean Jaccard index of an image's; `strength` is then only where the
    search for the right one begins. None keeps the strength as it is."""
    overlap_rate: float = Field(default=0.1, gt=0)
    """How fast that search is: per step, the logarithm of the strength changes by so much times the missing overlap."""

    @model_validator(mode="after")
    def _penalty_has_an_effect(self) -> "FinetuneConfig":
        if self.trained == "head" and self.penalised and self.regulariser.needs != {"parameters"}:
            raise ValueError(
                f"features do not move when only the head is trained, so {type(self.regulariser).__name__} would have "
                "no effect: leave it out, or train everything"
            )
        for name, neutral in (("anchor_on", "labelled"), ("overlap", None)):
            if getattr(self, name) != neutral and (not self.penalised or self.trained == "head"):
                raise ValueError(f"{name} has no effect without a penalty on features: choose a regulariser")
        if self.anchor_on != "labelled" and self.regulariser.needs == {"parameters"}:
            raise ValueError(
                f"{type(self.regulariser).__name__} penalises parameters, where anchor_on has no effect: leave it out"
            )
        return self

    @property
    def penalised(self) -> bool:
        """Whether the regulariser is computed at all."""
        return self.strength > 0 and not isinstance(self.regulariser, NoPenalty)
