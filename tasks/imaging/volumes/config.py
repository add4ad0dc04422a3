"""How a translation of volumes is trained, as data."""

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

Shape = tuple[PositiveInt, PositiveInt, PositiveInt]
"""Depth, height, width."""
LEAST_SIDE = 11  # of projections: the window of SSIM


class TranslationConfig(BaseModel):
    """How a network is trained to translate volumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt = 20
    """Passes over the training volumes."""
    batch_size: PositiveInt = 4
    """Volumes in a step."""
    learning_rate: PositiveFloat = 2e-3
    """Of Adam, falling to 0 as a cosine."""
    layer_weight: NonNegativeFloat = 1.0
    """Weight of the loss on layers' projections; 0 trains on voxels alone."""
    width: int = Field(default=8, ge=4, le=1024, multiple_of=4)
    """Channels of the first level of the U-Net."""
    levels: int = Field(default=3, ge=2, le=8)
    """Levels of the U-Net."""
    window: Shape | None = None
    """Size of the crops that it is trained on, and of the windows that its outputs are stitched of, each overlapping
    the next by half; None: whole volumes."""

    def check(self, shape: Shape) -> None:
        """Raise ValueError if volumes of a shape cannot be divided into windows, halved level by level, or measured."""
        seen, unit = self.window or shape, 2 ** (self.levels - 1)
        if any(side % unit for side in seen):
            name = "window" if self.window else "shape"
            raise ValueError(f"{name} must be three multiples of {unit} for {self.levels} levels, got {seen}")
        if any(one > whole for one, whole in zip(seen, shape, strict=True)):
            raise ValueError(f"window must fit into the shape {shape}, got {seen}")
        if min(shape[1:]) < LEAST_SIDE:
            raise ValueError(f"height and width must be at least {LEAST_SIDE} for SSIM, got {shape}")
