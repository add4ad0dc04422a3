"""A plain multi-layer perceptron on flattened images."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from amalgam.tasks.models.layers import ACTIVATIONS
from amalgam.tasks.models.spec import Activation


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
