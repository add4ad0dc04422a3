"""The networks of SPARSE, small: a classifier, a critic with a class head, a generator that translates classes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of leaky activations, as in PatchGAN
GROUPS = 8
PLACES = 4  # along a side, that class heads see features of: the mean over all of them forgets where a feature lies


class Judgement(NamedTuple):
    """What a critic says of images."""

    realness: Tensor
    """(b,)"""
    logits: Tensor
    """(b, classes)"""


def _convolutions(channels: int, width: int) -> nn.Sequential:
    """Two halvings of an image; its sides need not be even."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.GroupNorm(GROUPS, 2 * width),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        nn.GroupNorm(GROUPS, 2 * width),
        nn.LeakyReLU(SLOPE),
    )


def _class_head(num_classes: int, width: int) -> nn.Sequential:
    """Logits (b, classes) of features (b, width, h, w), averaged to `PLACES` x `PLACES` places."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(PLACES), nn.Flatten(), nn.Linear(PLACES**2 * width, num_classes))


class FewShotClassifier(nn.Module):
    """Convolutions, means over places, a linear layer."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.features = _convolutions(channels, width)
        self.head = _class_head(num_classes, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes) of images (b, c, h, w) in [-1, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Critic(nn.Module):
    """Whether images are real, patch by patch, and of which class they are."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.features = _convolutions(channels, width)
        self.realness = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.head = _class_head(num_classes, 2 * width)

    def forward(self, x: Tensor) -> Judgement:
        """Realness (b,), unbounded, the mean over patches, and logits (b, classes)."""
        features = self.features(x)
        return Judgement(self.realness(features).mean((1, 2, 3)), self.head(features))


class Generator(nn.Module):
    """A U-Net of one skip that turns an image into one of another class; the class enters as constant planes."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.enter = nn.Sequential(nn.Conv2d(channels + num_classes, width, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(SLOPE)
        )
        self.middle = nn.Sequential(
            nn.Conv2d(2 * width + num_classes, 2 * width, 3, padding=1),
            nn.InstanceNorm2d(2 * width),
            nn.LeakyReLU(SLOPE),
        )
        self.leave = nn.Conv2d(3 * width, channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Images (b, c, h, w) in (-1, 1) of the classes `labels` (b,)."""
        shallow = self.enter(self._with_class(x, labels))
        deep = self.middle(self._with_class(self.down(shallow), labels))
        deep = functional.interpolate(deep, shallow.shape[2:], mode="nearest")
        return torch.tanh(self.leave(torch.cat([shallow, deep], 1)))

    def _with_class(self, x: Tensor, labels: Tensor) -> Tensor:
        planes = functional.one_hot(labels, self.num_classes).to(x.dtype)[:, :, None, None]
        return torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
