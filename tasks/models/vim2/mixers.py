"""Selective mixers: a gated state-space layer along a sequence, in one direction, in both, or in four over an image.

    y = (SSM(act(conv(Linear x))) * act(Linear x)) Linear

A token mixer runs along the tokens. A channel mixer is the same on the transposed features: its sequence is the
channels, its features the tokens, so it is made for a fixed number of tokens.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from amalgam.tasks.models.vim2.scan import selective_scan
from amalgam.tasks.models.vim2.sizes import INNER, rank

MixerKind = Literal["selective", "mlp"]
FASTEST, SLOWEST = 0.001, 0.1  # the step sizes that a selective layer starts between (Gu and Dao 2023)


class SelectiveScan(nn.Module):
    """A state-space layer whose step size, input and output maps depend on the input (Gu and Dao 2023), causal."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.rank = rank(width)
        self.states = states
        self.project = nn.Linear(width, self.rank + 2 * states, bias=False)
        self.step = nn.Linear(self.rank, width)
        self.log_rates = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        start = torch.exp(torch.empty(width).uniform_(math.log(FASTEST), math.log(SLOWEST)))
        with torch.no_grad():
            self.step.bias.copy_(start + torch.log(-torch.expm1(-start)))  # softplus of it is `start`

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, length, width) of inputs of that shape; an output never depends on later inputs."""
        rank, inputs, outputs = self.project(x).split([self.rank, self.states, self.states], dim=-1)
        delta = functional.softplus(self.step(rank))
        return selective_scan(x, delta, -torch.exp(self.log_rates), inputs, outputs, self.skip)


class Causal(nn.Module):
    """A causal depthwise convolution, an activation and a selective layer: one direction of a 1-D mixer."""

    def __init__(self, width: int, states: int, kernel: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel, groups=width, padding=kernel - 1)
        self.selective = SelectiveScan(width, states)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, length, width)."""
        mixed = self.convolution(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        result: Tensor = self.selective(functional.silu(mixed))
        return result


class BothWays(nn.Module):
    """One direction, forward and on the flipped sequence, with the same weights: flipping inputs flips outputs."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.direction = Causal(width, states)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, length, width)."""
        return self.direction(x) + self.direction(x.flip(1)).flip(1)


class CrossScan(nn.Module):
    """A depthwise 3x3 convolution, then selective layers along rows, columns and both backwards (Liu et al. 2024)."""

    def __init__(self, width: int, states: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.directions = nn.ModuleList(SelectiveScan(width, states) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, height * width, channels), the sum of the four scans."""
        image = functional.silu(self.convolution(x.transpose(1, 2).unflatten(2, self.sides)))
        rows, columns = (one.flatten(2).transpose(1, 2) for one in (image, image.transpose(2, 3)))
        by_row = self.directions[0](rows) + self.directions[1](rows.flip(1)).flip(1)
        by_column = self.directions[2](columns) + self.directions[3](columns.flip(1)).flip(1)
        return by_row + by_column.unflatten(1, self.sides[::-1]).transpose(1, 2).flatten(1, 2)


class Gated(nn.Module):
    """A mixer of `inner` features along the sequence, between linear layers, times a gate."""

    def __init__(self, width: int, inner: int, mixer: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * inner)
        self.mixer = mixer
        self.outer = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, length, width)."""
        entered, gate = self.inner(x).chunk(2, dim=-1)
        result: Tensor = self.outer(self.mixer(entered) * functional.silu(gate))
        return result


class Transposed(nn.Module):
    """A mixer along the other axis: `mixer` on features (batch, width, length)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, length, width)."""
        result: Tensor = self.mixer(x.transpose(1, 2)).transpose(1, 2)
        return result


def perceptron(width: int) -> nn.Module:
    """Two linear layers, as in MLP-Mixer (Tolstikhin et al. 2021)."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def mixer_of_tokens(kind: MixerKind, channels: int, sides: tuple[int, int], states: int) -> nn.Module:
    """A mixer of the tokens (batch, height * width, channels) of an image, after a norm of each token."""
    tokens = sides[0] * sides[1]
    mixer = (
        Transposed(perceptron(tokens))
        if kind == "mlp"
        else Gated(channels, channels, CrossScan(channels, states, sides))
    )
    return nn.Sequential(nn.LayerNorm(channels), mixer)


def mixer_of_channels(kind: MixerKind, channels: int, tokens: int, states: int) -> nn.Module:
    """A mixer of the channels (batch, tokens, channels), after a norm of each token."""
    inner = min(tokens, INNER)
    mixer = perceptron(channels) if kind == "mlp" else Transposed(Gated(tokens, inner, BothWays(inner, states)))
    return nn.Sequential(nn.LayerNorm(channels), mixer)
