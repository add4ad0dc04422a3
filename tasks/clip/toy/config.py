"""How a small CLIP is pre-trained, as data; `tasks.clip.toy.pretrain` reads it."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amalgam.tasks.training.config import TrainConfig

NO_EFFECT = ("label_smoothing", "augment", "views", "accumulate")  # settings of classification


class PretrainConfig(BaseModel):
    """Settings of contrastive training on images of which no two are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig
    """Everything about the optimisation; an epoch is `images_per_epoch` images that were never seen before."""
    images_per_epoch: int = Field(ge=2)
    """Images between two looks at the loss, after each of which the run can be resumed."""
    max_logit_scale: float = Field(default=100.0, gt=0)
    """What cosines are multiplied by at most (Radford et al. 2021)."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "PretrainConfig":
        default = TrainConfig()
        for name in NO_EFFECT:
            if getattr(self.train, name) != getattr(default, name):
                raise ValueError(f"{name} has no effect in pre-training: leave it out")
        if self.train.precision == "fp16":
            raise ValueError("pre-training computes in fp32 or bf16, not in fp16")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; images that do not fill the last one are left out."""
        return max(1, self.images_per_epoch // self.train.batch_size)
