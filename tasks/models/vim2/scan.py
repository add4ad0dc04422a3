"""The selective state-space recurrence, one step after another and in parallel.

    h_t = decay_t * h_{t-1} + drive_t                       h_0 = drive_0
    decay = exp(delta A),  drive = (exp(delta A) - 1) / A * B x      (zero-order hold of a diagonal A)

Letters: b batch, t time (place in the sequence), d channels, n states of a channel.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def parallel_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """States (b, t, d, n) in about 2 sqrt(t) steps: all chunks of sqrt(t) at once, then from chunk to chunk.

    Two steps in a row are one step with decay `a2 a1` and drive `a2 b1 + b2`, and that composition is associative
    (Blelloch 1990), so a chunk needs of those before it only the state that they end with.
    """
    length = drive.shape[1]
    size = math.isqrt(length - 1) + 1
    padding = (0, 0, 0, 0, 0, -length % size)  # steps after the end change nothing before it
    decay, drive = (functional.pad(one, padding).unflatten(1, (-1, size)) for one in (decay, drive))
    # Unbound once: the gradient of an index would fill a whole tensor for every step.
    # Within chunks: states from an empty start, and the decay since then; h_t = states_t + decays_t h_entering.
    drives, factors = drive.unbind(2), decay.unbind(2)
    states, decays = [drives[0]], [factors[0]]
    for step in range(1, size):
        states.append(factors[step] * states[-1] + drives[step])
        decays.append(factors[step] * decays[-1])
    entering = [torch.zeros_like(states[0][:, 0])]
    for end, factor in zip(states[-1].unbind(1)[:-1], decays[-1].unbind(1)[:-1], strict=True):
        entering.append(factor * entering[-1] + end)
    whole = torch.stack(states, 2) + torch.stack(decays, 2) * torch.stack(entering, 1).unsqueeze(2)
    return whole.flatten(1, 2)[:, :length]


def discretise(delta: Tensor, rates: Tensor, inputs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Decay and drive (b, t, d, n) of steps (b, t, d), negative rates A (d, n), inputs B (b, t, n) and x (b, t, d)."""
    exponent = delta.unsqueeze(-1) * rates
    # expm1 keeps the digits of small steps: with delta at 0 the state neither decays nor takes anything in.
    return torch.exp(exponent), torch.expm1(exponent) / rates * inputs.unsqueeze(2) * x.unsqueeze(-1)


def selective_scan(x: Tensor, delta: Tensor, rates: Tensor, inputs: Tensor, outputs: Tensor, skip: Tensor) -> Tensor:
    """Outputs (b, t, d): C h + skip x, with B `inputs` and C `outputs` (b, t, n) that depend on the input."""
    states = parallel_scan(*discretise(delta, rates, inputs, x))
    return torch.einsum("btdn,btn->btd", states, outputs) + skip * x
