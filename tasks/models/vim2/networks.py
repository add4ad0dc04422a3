"""ViM2 for images and TSM2 for time series: stacks of selective token and channel mixers with weighted skips."""

import torch
from torch import Tensor, nn

from amalgam.tasks.models.vim2.mixers import Causal, Gated, MixerKind, mixer_of_channels, mixer_of_tokens
from amalgam.tasks.models.vim2.sizes import PATCH
from amalgam.tasks.models.vim2.skips import WeightedStack


class ViM2(nn.Module):
    """A small ViM2: patches, stages of mixers at halving resolution and doubling width, a mean, a linear classifier.

    Its options are those of `ViM2Options`, at whose defaults it has 1 to 5 million parameters.
    """

    def __init__(
        self,
        num_classes: int,
        in_shape: tuple[int, int, int],
        *,
        width: int,
        depths: tuple[int, ...],
        states: int,
        token_mixer: MixerKind,
        channel_mixer: MixerKind,
        weighted_skips: bool,
    ) -> None:
        super().__init__()
        channels, height, breadth = in_shape
        self.stem = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        self.stages, self.reductions = nn.ModuleList(), nn.ModuleList()
        sides = (height // PATCH, breadth // PATCH)
        for depth in depths:
            tokens = [mixer_of_tokens(token_mixer, width, sides, states) for _ in range(depth)]
            across = [mixer_of_channels(channel_mixer, width, sides[0] * sides[1], states) for _ in range(depth)]
            self.stages.append(WeightedStack(tokens, across, learned=weighted_skips))
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
        across = [mixer_of_channels("selective", num_series, length, states) for _ in range(depth)]
        self.stack = WeightedStack(times, across)
        self.head = nn.Linear(length, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts (batch, horizon, series) of windows (batch, length, series)."""
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        scaled = (x - mean) / deviation
        forecast: Tensor = self.head((scaled + self.stack(scaled)).transpose(1, 2)).transpose(1, 2)
        return forecast * deviation + mean
