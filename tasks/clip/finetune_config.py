"""How a CLIP is fine-tuned, as data; `tasks.clip.finetune` reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from tasks.clip.regulariser import Regulariser
from tasks.clip.regularisers import NoPenalty
from tasks.train_config import TrainConfig

RECIPE = TrainConfig(
    epochs=10,
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-5,
    weight_decay=0.1,
    schedule="cosine",
    clip_norm=1.0,
)
"""The settings of the paper's public code for ImageNet (method page, section 5), but for its 500 steps of warm-up."""


class FinetuneConfig(BaseModel):
    """Settings of one fine-tuning run: loss = cross-entropy + strength x regulariser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig = RECIPE
    """Everything about the optimisation."""
    trained: Literal["everything", "head"] = "everything"
    """What learns: encoder and head, or the head alone (a linear probe; LP-FT is a probe, then everything)."""
    regulariser: SerializeAsAny[Regulariser] = NoPenalty()
    """What holds features to those of the frozen encoder."""
    strength: float = Field(default=1.0, ge=0)
    """lambda: multiplies the regulariser; at 0 it is not computed, and fine-tuning is the plain one to the bit."""

    @model_validator(mode="after")
    def _penalty_has_an_effect(self) -> "FinetuneConfig":
        if self.trained == "head" and self.penalised and self.regulariser.needs != {"parameters"}:
            raise ValueError(
                f"features do not move when only the head is trained, so {type(self.regulariser).__name__} would have "
                "no effect: leave it out, or train everything"
            )
        return self

    @property
    def penalised(self) -> bool:
        """Whether the regulariser is computed at all."""
        return self.strength > 0 and not isinstance(self.regulariser, NoPenalty)
