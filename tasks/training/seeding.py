"""Random numbers that depend on a seed and a place in a run, and on nothing that was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device, rank: int = 0) -> Iterator[torch.Generator]:
    """A generator, and torch's own (dropout draws from it), seeded by (seed, epoch); torch's is put back at the end.

    Of processes that train together all share the generator, and torch's own differs by their `rank`.
    """
    shared = derived(seed, epoch)
    own = derived(seed, epoch, rank) if rank else shared
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(own)
        for other in devices:
            with torch.cuda.device(other):
                torch.cuda.manual_seed(own)
        yield torch.Generator().manual_seed(shared)


def derived(*numbers: int) -> int:
    """A seed of 63 bits made of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
