"""Weighted averages of earlier features: what a layer reads is a learned mix of everything computed before it.

    x_token(l)   = sum_{i<l}  alpha_li y_token(i) + sum_{i<l} beta_li  y_channel(i)
    x_channel(l) = sum_{i<=l} theta_li y_token(i) + sum_{i<l} gamma_li y_channel(i)       y(0) = the input

A stack of L layers has L (2 L + 3) coefficients. The paper does not say how they start. "residual": 1 for every output
and for the input once, which is a stack of residual layers. "last": 1 for the newest feature, a stack without skips.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

Start = Literal["residual", "last"]


class WeightedStack(nn.Module):
    """Pairs of a token and a channel mixer, each of which reads a weighted average of all earlier features."""

    def __init__(
        self,
        tokens: Sequence[nn.Module],
        channels: Sequence[nn.Module],
        start: Start = "residual",
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.tokens, self.channels = nn.ModuleList(tokens), nn.ModuleList(channels)
        layers = range(1, len(tokens) + 1)
        self.for_tokens = _parameters([_start(start, num, num) for num in layers], learned)
        self.for_channels = _parameters([_start(start, num + 1, num) for num in layers], learned)

    def forward(self, x: Tensor) -> Tensor:
        """What the last channel mixer computes, of the shape of x (batch, tokens, channels)."""
        of_tokens, of_channels = [x], [x]
        for layer, (token, channel) in enumerate(zip(self.tokens, self.channels, strict=True)):
            of_tokens.append(token(_mix(self.for_tokens[layer], [*of_tokens, *of_channels])))
            of_channels.append(channel(_mix(self.for_channels[layer], [*of_tokens, *of_channels])))
        return of_channels[-1]


class WeightedBlocks(nn.Module):
    """Any blocks in a row, such as a vision transformer's, each reading a weighted average of all earlier outputs.

    It starts as the row of blocks that it is made of: `vit.blocks = WeightedBlocks(vit.blocks)` changes no output of a
    vision transformer of timm, `transformer.resblocks = nn.ModuleList([WeightedBlocks(transformer.resblocks)])` none of
    one of open_clip.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        last = [torch.eye(num)[-1] for num in range(1, len(self.blocks) + 1)]
        self.weights = _parameters(last, learned=True)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """What the last block computes; every block is given the options, such as open_clip's attention mask."""
        features = [x]
        for weights, block in zip(self.weights, self.blocks, strict=True):
            features.append(block(_mix(weights, features), **options))
        return features[-1]


def _start(start: Start, num_tokens: int, num_channels: int) -> Tensor:
    """Coefficients of outputs of token mixers, then of channel mixers, the stack's input being the first of each."""
    weights = torch.ones(num_tokens + num_channels)
    if start == "residual":
        weights[0] = 0  # the input counts once, as the first "output" of the channel mixers
        return weights
    newest = num_tokens - 1 if num_tokens > num_channels else num_tokens + num_channels - 1
    return torch.eye(len(weights))[newest]


def _parameters(starts: Sequence[Tensor], learned: bool) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(start, requires_grad=learned) for start in starts)


def _mix(weights: Tensor, features: Sequence[Tensor]) -> Tensor:
    # Term by term: no copy of all features, and fusion can carry units through products with learned scalars.
    return reduce(torch.add, map(torch.mul, weights.unbind(), features))
