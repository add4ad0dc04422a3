"""Configuration of the pre-training step, importable without torch."""

from pydantic import Field

from amalgam.pipeline.steps.configs import Config
from amalgam.tasks.toy_clip.worlds import AnyWorld


class PretrainedConfig(Config):
    """A CLIP trained here on a world of its own."""

    world: AnyWorld
    seed: int = Field(ge=0)
    """Draws the weights, the images and their captions."""
