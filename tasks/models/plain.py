"""Plain networks: a multi-layer perceptron and VGG11 in its CIFAR form, and what all networks share."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from amalgam.tasks.models.spec import Activation

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each halving of the image."""
SMALLEST_SIDE = 2 ** len(STAGES)


def scaled(channels: int, width: float) -> int:
    """A channel count times a width multiplier, at least 1."""
    return max(1, round(channels * width))


def initialise_convolutions(module: nn.Module) -> None:
    """Draw convolution weights after He et al. (2015), fan out, so that deep plain nets train; biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Linear layers with an activation after each but the last."""

    def __init__(self, sizes: tuple[int, ...], activation: Activation, bias: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for fan_in, fan_out in pairwise(sizes):
            self.layers.extend([nn.Linear(fan_in, fan_out, bias), ACTIVATIONS[activation]()])
        self.layers.pop(len(self.layers) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        logits: Tensor = self.layers(torch.flatten(x, 1))
        return logits


def mlp(
    num_classes: int, in_shape: tuple[int, int, int], *, widths: tuple[int, ...], activation: Activation, bias: bool
) -> MLP:
    """An MLP from the pixels of `in_shape` through hidden layers of `widths` to `num_classes`."""
    return MLP((math.prod(in_shape), *widths, num_classes), activation, bias)


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each followed by a 2x2 max pooling, a mean over pixels and one linear classifier.

    Simonyan & Zisserman 2015; VGG11 has eight convolutions.
    """

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
