"""What a network costs to run on one image: parameters, floating-point operations, time.

A structural zero, an entry that the block structure of a fused network keeps at 0, is stored but need not be computed:
the `nonzero` counts leave it out. An accidental 0 counts as any other number.
"""

import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amalgam.tasks.tracing.running import evaluating, unfused_attention

WARMUP_RUNS = 3
TIMED_RUNS = 20


@dataclass(frozen=True)
class Cost:
    """The cost of one image through one network; the sum is that of running both."""

    parameters: int
    """Numbers stored."""
    nonzero_parameters: int
    """Numbers stored, without structural zeros."""
    flops: int
    """Operations as stored: a multiplication and an addition count as two; biases and activations are not counted."""
    nonzero_flops: int
    """Operations without those on structural zeros."""
    latency_ms: float
    """Median milliseconds of a forward pass of one image, with as many threads as torch is set to."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def cost_of(module: nn.Module, example: Tensor | tuple[Any, ...], support: Mapping[str, Tensor] | None = None) -> Cost:
    """The cost of `module`, in eval mode, on the first image of `example` (one tensor, or all inputs of forward).

    `support` gives, for parameters with structural zeros, a tensor that is False there.
    """
    support = support or {}
    inputs = _first(example)
    with evaluating(module), torch.no_grad():
        flops = _flops_by_module(module, inputs)
        latency = _latency_ms(module, inputs)
    parameters = dict(module.named_parameters())
    zeros = {name: allowed.numel() - int(allowed.sum()) for name, allowed in support.items()}
    stored = sum(parameter.numel() for parameter in parameters.values())
    saved = sum(
        flops.get(name.removesuffix("weight").removesuffix("."), 0) * count / parameters[name].numel()
        for name, count in zeros.items()
    )
    return Cost(stored, stored - sum(zeros.values()), flops[""], round(flops[""] - saved), latency)


def flops_by_parameter(module: nn.Module, example: Tensor | tuple[Any, ...]) -> dict[str, float]:
    """Weight of each layer that computes -> operations in which each of its entries takes part, for one image."""
    with evaluating(module), torch.no_grad():
        flops = _flops_by_module(module, _first(example))
    weights = {name: p for name, p in module.named_parameters() if p.ndim > 1}
    paths = {name: name.removesuffix("weight").removesuffix(".") for name in weights}
    return {name: flops[path] / weights[name].numel() for name, path in paths.items() if flops.get(path)}


def _first(example: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of forward, of one image each."""
    inputs = example if isinstance(example, tuple) else (example,)
    return tuple(x[:1] if isinstance(x, Tensor) else x for x in inputs)


def _flops_by_module(module: nn.Module, inputs: tuple[Any, ...]) -> dict[str, int]:
    """Operations of each submodule by its path, its own submodules included; "" is the whole."""
    with unfused_attention(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    prefix = f"{type(module).__name__}."
    counts = {
        path.removeprefix(prefix): sum(by_operation.values())
        for path, by_operation in counter.get_flop_counts().items()
    }
    return counts | {"": counter.get_total_flops()}


def _latency_ms(module: nn.Module, inputs: tuple[Any, ...]) -> float:
    device = next((x.device for x in inputs if isinstance(x, Tensor)), torch.device("cpu"))
    seconds = []
    for _ in range(WARMUP_RUNS + TIMED_RUNS):
        start = time.perf_counter()
        module(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds[WARMUP_RUNS:])
