"""How a translation of volumes is trained, as data."""

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class TranslationConfig(BaseModel):
    """How a network is trained to translate volumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt = 20
    """Passes over the training volumes."""
    batch_size: PositiveInt = 4
    """Volumes in a step."""
    learning_rate: PositiveFloat = 2e-3
    """Of Adam, falling to 0 as a cosine."""
    layer_weight: NonNegativeFloat = Field(default=1.0)
    """Weight of the loss on layers' projections; 0 trains on voxels alone."""
    width: PositiveInt = 8
    """Channels of the first level of the U-Net."""
    levels: int = Field(default=3, ge=2)
    """Levels of the U-Net."""
