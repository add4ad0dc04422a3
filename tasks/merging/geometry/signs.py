"""Sparse task vectors: which entries are kept by size, by chance, or because the tasks agree on their sign."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE = 2**14  # entries that the threshold is first guessed from
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
    sign = points[0].clone()
    for point in points[1:]:
        sign.add_(point)
    sign.sign_()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for point in points:
        agreeing = torch.mul(point, sign).relu_()
        total.add_(agreeing)
        count.add_(agreeing > 0)
    return total.mul_(sign).div_(count.clamp_min_(1))


def kth_largest(sizes: Tensor, count: int) -> Tensor:
    """The `count`-th largest of a flat tensor, exactly.

    A sample brackets it, so that only the few entries between the brackets are sorted (Floyd & Rivest 1975); where
    the sample misleads, all are.
    """
    if len(sizes) > SMALL:
        places = torch.randint(len(sizes), (SAMPLE,), generator=torch.Generator().manual_seed(0))
        sample = sizes[places].sort(descending=True).values
        guess, margin = count / len(sizes) * SAMPLE, 3 * SAMPLE**0.5
        high = sample[max(0, int(guess - margin))]
        low = sample[min(SAMPLE - 1, int(guess + margin))]
        candidates = sizes[sizes >= low]
        above = int((candidates > high).sum())
        if above < count <= len(candidates):
            sizes, count = candidates[candidates <= high], count - above
    return sizes.kthvalue(len(sizes) - count + 1).values
