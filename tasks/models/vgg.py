"""VGG11 in its CIFAR form (Simonyan & Zisserman 2015): eight 3x3 convolutions, five poolings, one linear classifier."""

import torch
from torch import Tensor, nn

from amalgam.tasks.models.layers import ACTIVATIONS, initialise_convolutions, scaled
from amalgam.tasks.models.spec import Activation

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each halving of the image."""
SMALLEST_SIDE = 2 ** len(STAGES)


class VGG(nn.Module):
    """Stages of convolutions, each followed by a 2x2 max pooling, then a mean over what is left of the image."""

    def __init__(
        self,
        stages: tuple[tuple[int, ...], ...],
        in_channels: int,
        num_classes: int,
        activation: Activation,
        batch_norm: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = in_channels
        for stage in stages:
            for width in stage:
                self.features.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias and not batch_norm))
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(width))
                self.features.append(ACTIVATIONS[activation]())
                channels = width
            self.features.append(nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes, bias)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return logits


def vgg11(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    width: float,
    activation: Activation,
    batch_norm: bool,
    bias: bool,
) -> VGG:
    """A VGG11 whose channels are multiplied by `width`; needs images of at least 32x32."""
    channels, *sides = in_shape
    if min(sides) < SMALLEST_SIDE:
        raise ValueError(
            f"vgg11 halves the image {len(STAGES)} times and needs 32x32 pixels, got {in_shape}: set image_size"
        )
    stages = tuple(tuple(scaled(count, width) for count in stage) for stage in STAGES)
    return VGG(stages, channels, num_classes, activation, batch_norm, bias)
