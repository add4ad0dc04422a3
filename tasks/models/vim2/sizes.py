"""How many parameters a ViM2 has, counted from its options, without torch: for plans, and for rivals of its size."""

import math
from collections.abc import Mapping
from typing import Any

PATCH = 4
"""Side of the square of pixels that the first convolution makes a token of, as in the paper."""
INNER = 64
"""Most features that a channel mixer works on: it is made for all tokens of an image, thousands in large ones."""


def check_sides(in_shape: tuple[int, int, int], num_stages: int) -> None:
    """Raise ValueError if an image of (channels, height, width) does not halve to the last stage."""
    unit = PATCH * 2 ** (num_stages - 1)
    if any(side % unit for side in in_shape[1:]):
        raise ValueError(
            f"vim2_tiny with {num_stages} stages needs images whose sides are multiples of {unit}, got {in_shape}: "
            "resize them (--image-size)"
        )


def vim2_parameters(num_classes: int, in_shape: tuple[int, int, int], options: Mapping[str, Any]) -> int:
    """Parameters of `vim2_tiny` with all of its options."""
    depths, states, channels = options["depths"], options["states"], options["width"]
    sides = [side // PATCH for side in in_shape[1:]]
    count = in_shape[0] * channels * PATCH**2 + channels
    for stage, depth in enumerate(depths):
        if stage:
            count += 8 * channels**2 + 2 * channels  # a convolution of 2 x 2 pixels that doubles the channels
            channels, sides = 2 * channels, [side // 2 for side in sides]
        tokens = math.prod(sides)
        of_tokens = (
            _perceptron(tokens)
            if options["token_mixer"] == "mlp"
            else 3 * channels**2 + 3 * channels + 10 * channels + 4 * _scan(channels, states)
        )
        inner = min(tokens, INNER)
        of_channels = (
            _perceptron(channels)
            if options["channel_mixer"] == "mlp"
            else 3 * tokens * inner + 2 * inner + tokens + 4 * inner + _scan(inner, states)
        )
        skips = 2 * depth + 3
        count += depth * (4 * channels + of_tokens + of_channels + skips)
    return int(count + 2 * channels + channels * num_classes + num_classes)


def rank(width: int) -> int:
    """Features that the step sizes of a selective layer are made of (Gu and Dao 2023)."""
    return math.ceil(width / 16)


def _scan(width: int, states: int) -> int:
    return width * (2 * rank(width) + 3 * states + 2)


def _perceptron(width: int) -> int:
    return 4 * width**2 + 3 * width
