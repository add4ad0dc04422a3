"""ViM2 for images and TSM2 for time series: stacks of selective token and channel mixers with weighted skips."""

import torch
from torch import Tensor, nn

from amalgam.tasks.models.vim2.mixers import Causal, Gated, MixerKind, channel_mixer, token_mixer
from amalgam.tasks.models.vim2.sizes import PATCH
from amalgam.tasks.models.vim2.skips import WeightedStack


class ViM2(nn.Module):
    """A small ViM2: patches, stages of mixers at halving resolution and doubling width, a mean, a linear classifier."""

    def __init__(
        self,
        num_classes: int,
        in_shape: tuple[int, int, int],
        width: int,
        depths: tuple[int, ...],
        states: int,
        mixers: tuple[MixerKind, MixerKind],
        weighted_skips: bool,
    ) -> None:
        super().__init__()
        channels, height, breadth = in_shape
        self.stem = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        self.stages, self.reductions = nn.ModuleList(), nn.ModuleList()
        sides = (height // PATCH, breadth // PATCH)
        for depth in depths:
            tokens = [token_mixer(mixers[0], width, sides, states) for _ in range(depth)]
            channels_of = [channel_mixer(mixers[1], width, sides[0] * sides[1], states) for _ in range(depth)]
            self.stages.append(WeightedStack(tokens, channels_of, learned=weighted_skips))
            if len(self.stages) < len(depths):
                self.reductions.append(nn.Conv2d(width, 2 * width, 2, stride=2))
                width, sides = 2 * width, (sides[0] // 2, sides[1] // 2)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        image = self.stem(x)
        for index, stage in enumerate(self.stages):
            if index:
                image = self.reductions[index - 1](image)
            sides = image.shape[2:]
            image = stage(image.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, sides)
        logits: Tensor = self.classifier(self.norm(image.flatten(2).mean(2)))
        return logits


def vim2_tiny(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    width: int,
    depths: tuple[int, ...],
    states: int,
    token_mixer: MixerKind,
    channel_mixer: MixerKind,
    weighted_skips: bool,
) -> ViM2:
    """A ViM2 of 1 to 5 million parameters at its defaults.

    Raises ValueError if patches do not halve to the last stage.
    """
    unit = PATCH * 2 ** (len(depths) - 1)
    if any(side % unit for side in in_shape[1:]):
        raise ValueError(
            f"vim2_tiny with {len(depths)} stages needs sides that are multiples of {unit}, got {in_shape}"
        )
    return ViM2(num_classes, in_shape, width, depths, states, (token_mixer, channel_mixer), weighted_skips)


class TSM2(nn.Module):
    """Forecasts of many series at once: causal mixers along time, mixers of both directions across series.

    Each window is normalised by its own mean and deviation, and forecasts are scaled back (Kim et al. 2022).
    """

    def __init__(self, num_series: int, length: int, horizon: int, depth: int = 2, states: int = 8) -> None:
        super().__init__()
        times = [
            nn.Sequential(nn.LayerNorm(num_series), Gated(num_series, num_series, Causal(num_series, states)))
            for _ in range(depth)
        ]
        across = [channel_mixer("selective", num_series, length, states) for _ in range(depth)]
        self.stack = WeightedStack(times, across)
        self.head = nn.Linear(length, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts (batch, horizon, series) of windows (batch, length, series)."""
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        scaled = (x - mean) / deviation
        forecast: Tensor = self.head((scaled + self.stack(scaled)).transpose(1, 2)).transpose(1, 2)
        return forecast * deviation + mean
