"""Random numbers that belong to an example: the same whatever batch, order or machine it is met in.

SplitMix64 (Steele, Lea and Flood 2014) as a hash of seed, stream and position, over whole tensors at once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # the step of SplitMix64, 2^64 over the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # its multipliers
BITS = 24  # a float32 below 1 has no more
PARTS = 16  # streams that one `RandomNumbers` has for itself


def uniforms(ids: Tensor, seed: int, count: int, stream: int = 0) -> Tensor:
    """Numbers in [0, 1) as float32, (len(ids), count), a function of each id, the seed and the stream alone.

    A longer row begins with the shorter one. Streams of one seed are as unrelated as seeds are.
    """
    start = _mixed(_mixed(torch.tensor([_signed(seed)])) ^ _signed(stream))
    states = _mixed(start ^ ids.cpu().long())[:, None]
    drawn = _mixed(states + _signed(GAMMA) * torch.arange(1, count + 1))
    return _shifted(drawn, 64 - BITS).to(torch.float32).mul_(2.0**-BITS).to(ids.device)


def normals(ids: Tensor, seed: int, count: int, stream: int = 0) -> Tensor:
    """Numbers of mean 0 and variance 1 as float32, (len(ids), count), by Box and Muller (1958) from `uniforms`."""
    radius, turn = uniforms(ids, seed, count + count % 2, stream).unflatten(1, (-1, 2)).movedim(2, 0).contiguous()
    length = (-2 * torch.log1p(-radius)).sqrt()
    angle = 2 * math.pi * turn
    return torch.stack([length * angle.cos(), length * angle.sin()], -1).flatten(1)[:, :count]


@dataclass(frozen=True)
class RandomNumbers:
    """The random numbers of some examples for one purpose; its parts are as unrelated as streams are."""

    ids: Tensor
    """Which examples, (n,)."""
    seed: int
    purpose: int = 0
    """Sets apart what is drawn for different ends."""

    def uniforms(self, count: int, part: int = 0) -> Tensor:
        """(n, count) in [0, 1)."""
        return uniforms(self.ids, self.seed, count, self.purpose * PARTS + part)

    def normals(self, count: int, part: int = 0) -> Tensor:
        """(n, count) of mean 0 and variance 1."""
        return normals(self.ids, self.seed, count, self.purpose * PARTS + part)

    def between(self, low: float, high: float, part: int = 0) -> Tensor:
        """One number of each example in [low, high), (n, 1, 1, 1): it multiplies pictures (n, c, h, w)."""
        return low + (high - low) * self.uniforms(1, part)[:, :, None, None]

    def of(self, places: Tensor) -> "RandomNumbers":
        """The same for some of the examples, those at `places` (m,) or where a mask (n,) is True."""
        return RandomNumbers(self.ids[places], self.seed, self.purpose)


def _mixed(states: Tensor) -> Tensor:
    """One step of the generator from each state."""
    states = states + _signed(GAMMA)
    states = (states ^ _shifted(states, 30)) * _signed(FIRST)
    states = (states ^ _shifted(states, 27)) * _signed(SECOND)
    return states ^ _shifted(states, 31)


def _shifted(states: Tensor, bits: int) -> Tensor:
    """The unsigned shift to the right, which int64 has not."""
    return (states >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
