"""A classifier that includes its preprocessing, so that callers pass raw pixels."""

import torch
from torch import Tensor, nn

from amalgam.tasks.data.pixels import Scale


class FromPixels(nn.Module):
    """Takes pictures as uint8 pixels (batch, channels, height, width) and gives the logits of a network."""

    factor: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, mean: Scale, std: Scale) -> None:
        """`mean` and `std` are those of `DataSpec`, of pixels in [0, 1]."""
        super().__init__()
        centre, spread = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std))
        self.network = network
        self.register_buffer("factor", 1 / (255 * spread))
        self.register_buffer("offset", centre / spread)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        logits: Tensor = self.network(pixels.float() * self.factor - self.offset)
        return logits
