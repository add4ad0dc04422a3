"""ResNet18 in its CIFAR form (He et al. 2016): a 3x3 stem of stride 1, no pooling before the first stage.

Parameter names are torchvision's, so that checkpoints of the many CIFAR ResNets named after it load.
"""

import torch
from torch import Tensor, nn

from amalgam.tasks.models.plain import ACTIVATIONS, initialise_convolutions, scaled
from amalgam.tasks.models.spec import Activation

CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input, which a 1x1 convolution fits to them where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.activation = ACTIVATIONS[activation]()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (batch, channels, height / stride, width / stride)."""
        branch = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        activated: Tensor = self.activation(branch + self.downsample(x))
        return activated


class ResNet(nn.Module):
    """A stem, four stages of basic blocks that halve the image three times, a mean over pixels, a linear classifier."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        in_channels: int,
        num_classes: int,
        activation: Activation,
        bias: bool,
    ) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.activation = ACTIVATIONS[activation]()
        self.layer1 = _stage(first, first, 1, activation)
        self.layer2 = _stage(first, second, 2, activation)
        self.layer3 = _stage(second, third, 2, activation)
        self.layer4 = _stage(third, fourth, 2, activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(fourth, num_classes, bias)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(in_channels: int, channels: int, stride: int, activation: Activation) -> nn.Sequential:
    blocks = [BasicBlock(in_channels, channels, stride, activation)]
    blocks += [BasicBlock(channels, channels, 1, activation) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(*blocks)


def resnet18(
    num_classes: int, in_shape: tuple[int, int, int], *, width: float, activation: Activation, bias: bool
) -> ResNet:
    """A ResNet18 whose channels are multiplied by `width`."""
    first, second, third, fourth = (scaled(count, width) for count in CHANNELS)
    return ResNet((first, second, third, fourth), in_shape[0], num_classes, activation, bias)
