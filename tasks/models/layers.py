"""What the networks share: activations by name, scaled channel counts, and the start of convolutions."""

from torch import nn

from amalgam.tasks.models.spec import Activation

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


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
