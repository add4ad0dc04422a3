"""Sparse task vectors: which entries are kept by size, at random, or because the tasks agree on their sign."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

SAMPLE = 2**14  # entries that the threshold is first guessed from
PIECE = 2**16  # entries of each task that are elected at once: those of several tasks fit a cache
SMALL = 2**16  # below this many entries a plain sort is faster than a guess


def trimmed(values: Tensor, density: float) -> Tensor:
    """The share `density` of the entries that are largest in size, zeros elsewhere; at least one entry is kept.

    Entries as large as the smallest one kept are all kept.
    """
    kept = max(1, round(density * values.numel())) if values.numel() else 0
    if kept == values.numel():
        return values
    sizes = values.abs()
    return torch.where(sizes >= kth_largest(sizes.flatten(), kept), values, 0)


def band(values: Tensor, density: float, top: float) -> Tensor:
    """The share `density` of the entries after the share `top` of largest ones was dropped; zeros elsewhere.

    Counts are rounded so that small tensors keep what they have: no entry is dropped for being large where
    `top * entries < 1`.
    """
    count = values.numel()
    dropped = int(top * count)
    kept = min(count - dropped, max(1, round(density * count))) if count else 0
    if kept == count:
        return values
    order = values.abs().flatten().argsort(descending=True, stable=True)
    result = torch.zeros_like(values).flatten()
    chosen = order[dropped : dropped + kept]
    result[chosen] = values.flatten()[chosen]
    return result.view_as(values)


def dropped_out(values: Tensor, density: float, seed: int, name: str) -> Tensor:
    """Each entry kept with probability `density` and then divided by it, so that the mean over seeds is `values`.

    The draw depends on the seed, the name and the values themselves, not on the member's place among the members.
    """
    content = zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    # Of a seed the generator of the CPU reads 32 bits.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode(), content))
    kept = torch.rand(values.shape, generator=generator) < density
    return torch.where(kept, values / density, 0)


def elect(points: Sequence[Tensor]) -> Tensor:
    """Per entry, the mean of the tasks that have the sign of the tasks' sum (Yadav et al. 2023); 0 where none has.

    It is the solve with a diagonal metric of ones and zeros, written with few passes over memory.
    """
    # Times the elected sign, entries that agree are positive and the others are cut off at 0.
    stacked = torch.stack(list(points))
    sign = stacked.sum(0).sign_()
    total = stacked.mul_(sign).relu_().sum(0)
    return total.mul_(sign).div_(stacked.sign_().sum(0).clamp_min_(1))


def trimmed_and_elected(base: Tensor, values: Sequence[Tensor], density: float) -> Tensor:
    """`elect` of the trimmed differences of `values` to `base`, piece by piece: no difference lies in memory whole."""
    start, flat, count = base.flatten(), [value.flatten() for value in values], base.numel()
    kept = max(1, round(density * count)) if count else 0
    buffer, result = torch.empty_like(start), torch.empty_like(start)
    limits = [0.0] * len(flat)
    if kept < count:
        sizes = (torch.sub(value, start, out=buffer).abs_() for value in flat)
        limits = [_just_below(kth_largest(each, kept)) for each in sizes]
    for first in range(0, count, PIECE):
        piece = slice(first, first + PIECE)
        pairs = zip(flat, limits, strict=True)
        result[piece] = elect([hardshrink(value[piece] - start[piece], limit) for value, limit in pairs])
    return result.view_as(base)


def _just_below(limit: Tensor) -> float:
    """The next smaller number: entries that are larger than it are as large as the limit."""
    return float(torch.nextafter(limit, torch.zeros_like(limit)))


def kth_largest(sizes: Tensor, count: int) -> Tensor:
    """The `count`-th largest of a flat tensor, exactly.

    A sample brackets it, so that only the few entries between the brackets are sorted (Floyd & Rivest 1975); where
    the sample misleads, all are.
    """
    numbers = sizes.cpu().numpy()  # its masks are several times as fast as torch's
    if len(numbers) > SMALL:
        sample = np.sort(numbers[:: len(numbers) // SAMPLE])[::-1]
        guess, margin = count / len(numbers) * len(sample), 3 * len(sample) ** 0.5
        high = sample[max(0, int(guess - margin))]
        low = sample[min(len(sample) - 1, int(guess + margin))]
        above = int(np.count_nonzero(numbers > high))
        between = numbers[(numbers >= low) & (numbers <= high)]
        if above < count <= above + len(between):
            sizes, count = torch.from_numpy(between), count - above
    return sizes.kthvalue(len(sizes) - count + 1).values
