"""Random numbers that depend on a seed and a place in a run, and on nothing that was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator, and torch's own (dropout draws from it), seeded by (seed, epoch); torch's is put back at the end."""
    derived = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(derived)
        for other in devices:
            with torch.cuda.device(other):
                torch.cuda.manual_seed(derived)
        yield torch.Generator().manual_seed(derived)
