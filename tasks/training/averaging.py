"""The weighted mean of state dicts of one architecture: interpolated weights, soups, naive averages."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
TOLERANCE = 1e-6  # weights that sum to 1 in decimals do so in binary to about 1e-16


def mean_state(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """`sum_k weights_k states_k`, entry by entry, in at least float32, returned in the states' dtypes.

    Equal weights if None. States of weight 0 are not read, so their NaN cannot leak; a state of weight 1 comes back bit
    for bit; equal entries stay as they are. Whatever is not a floating-point number (counters, masks) is taken from
    the first state with any weight. The states are not changed and share no memory with the result. Raises ValueError
    for weights that are negative or do not sum to 1, and for states that differ in names, shapes or dtypes.
    """
    if not states:
        raise ValueError("there is no state dict to average: give at least one")
    shares = [1 / len(states)] * len(states) if weights is None else list(weights)
    _check(states, shares)
    present = [(state, share) for state, share in zip(states, shares, strict=True) if share]
    first, *others = present
    return {name: _mean(first[0][name], [(state[name], share) for state, share in others]) for name in first[0]}


def _mean(first: Tensor, others: Sequence[tuple[Tensor, float]]) -> Tensor:
    """`first` plus weighted differences to the others: exact where all are equal, unlike a plain weighted sum."""
    if not others or not (first.is_floating_point() or first.is_complex()):
        return first.detach().clone()
    wide = first.detach().to(torch.promote_types(first.dtype, torch.float32))
    total = wide.clone()
    for other, share in others:
        total += share * (other.detach().to(wide) - wide)
    return total.to(first.dtype)


def _check(states: Sequence[State], weights: Sequence[float]) -> None:
    if len(weights) != len(states):
        raise ValueError(f"one weight per state dict: got {len(weights)} weights for {len(states)} state dicts")
    if not all(weight >= 0 for weight in weights) or not math.isclose(sum(weights), 1, abs_tol=TOLERANCE):
        raise ValueError(f"weights must be non-negative and sum to 1, got {tuple(weights)}")
    for state in states[1:]:
        odd = sorted(set(states[0]) ^ set(state))
        if odd:
            raise ValueError(f"state dicts of different networks cannot be averaged: only one has {odd[0]!r}")
        for name, tensor in states[0].items():
            ours, theirs = (tuple(tensor.shape), tensor.dtype), (tuple(state[name].shape), state[name].dtype)
            if ours != theirs:
                raise ValueError(
                    f"{name!r} is {ours[1]} {ours[0]} in one state dict and {theirs[1]} {theirs[0]} in another"
                )
