"""Configuration of staged features; importable without torch."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from amalgam.pipeline.steps.configs import Config, StageDtype
from amalgam.tasks.data.sources import Source, check_source


class FeaturesConfig(Config):
    """Features that a frozen encoder gives to some images, in some of their views."""

    source: Source
    """Which images."""
    augment: Literal["none", "shift", "resized_crop"] = "none"
    """The kind of views, as in `TrainConfig.augment`."""
    views: tuple[int, ...] = (0,)
    """Which views of that kind, counted from 0."""
    dtype: StageDtype = "float32"
    """How features are stored. Only float32 gives fine-tuning the numbers it would compute itself."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass; it sets how sums are rounded."""
    part: int = Field(default=0, ge=0)
    """Which share of the images this is, from 0."""
    num_parts: int = Field(default=1, ge=1)
    """Shares of whole batches, in order, which can be encoded side by side."""
    domain: str = ""
    """What the images are called as a domain; empty takes the style of each where the source draws styles."""

    @model_validator(mode="after")
    def _views_and_part_exist(self) -> Self:
        if len(set(self.views)) < max(1, len(self.views)) or min(self.views) < 0:
            raise ValueError(f"views must be different numbers from 0 on, got {self.views}")
        if self.augment == "none" and self.views != (0,):
            raise ValueError(f"pictures as they are have the single view 0, got {self.views}: choose another augment")
        if self.part >= self.num_parts:
            raise ValueError(f"part must be below {self.num_parts}, got {self.part}")
        return self


def check_features(config: FeaturesConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the images are there."""
    check_source(config.source, data_root)
