"""Activations of a network's unit groups, taken where the next layer reads them, and their summaries per unit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.scoring.sums import Moments, Sums
from amalgam.tasks.tracing.axes import Axes

ADAPTIVE_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@dataclass(frozen=True)
class Site:
    """Where a group's activations are taken: the input of the first layer that reads them."""

    group: str
    layer: str
    """Path of the reading layer."""
    units: int
    repeat: int
    """Entries per unit in the layer's input (pixels, where a feature map was flattened)."""


def sites(module: nn.Module, axes: Axes) -> list[Site]:
    """One site per hidden group, in the order of computation."""
    sizes = axes.sizes(module.state_dict())
    found = []
    for group in axes.groups:
        name = axes.reader(group)
        repeat = next(axis.repeat for axis in axes.of[name] if axis and axis.group == group)
        found.append(Site(group, name.removesuffix(".weight"), sizes[group], repeat))
    return found


@torch.no_grad()
def capture(module: nn.Module, where: Sequence[Site], x: Tensor, *, grid: int = 2) -> dict[str, Tensor]:
    """Group -> activations on a batch, (batch, units, positions), from one forward pass in eval mode.

    Feature maps larger than `grid` x `grid` are average-pooled to that many positions; a flattened map keeps its own.
    """
    taken: dict[str, Tensor] = {}

    def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            taken[site.group] = _positions(arguments[0], site, grid)

        return take

    handles = [module.get_submodule(site.layer).register_forward_pre_hook(hook(site)) for site in where]
    was_training = module.training
    try:
        module.eval()(x)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return taken


def captured(
    module: nn.Module, where: Sequence[Site], batches: Iterable[Any], *, grid: int = 2
) -> Iterator[dict[str, Tensor]]:
    """`capture` over a stream of batches, each an input or a tuple that starts with one."""
    for batch in batches:
        yield capture(module, where, inputs_of(batch), grid=grid)


def inputs_of(batch: Any) -> Tensor:
    """The input of a batch that may carry labels, as data loaders give it."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def as_rows(activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(batch, units, positions) -> (batch * positions, units): every position is an example of its own."""
    return {group: values.movedim(1, 2).flatten(0, 1) for group, values in activations.items()}


def _positions(x: Tensor, site: Site, grid: int) -> Tensor:
    if x.ndim == 2:
        return x.unflatten(1, (site.units, site.repeat))
    if x.ndim - 2 not in ADAPTIVE_POOLS:
        raise ValueError(f"{site.layer} reads a tensor of shape {tuple(x.shape)}; units must be its second axis")
    pooled = x if max(x.shape[2:]) <= grid else ADAPTIVE_POOLS[x.ndim - 2](x, grid)
    return pooled.flatten(2)


class UnitSummary:
    """Streaming statistics of each unit of one group: memory is a few vectors, whatever the number of rows."""

    def __init__(self, num_units: int) -> None:
        self.moments, self.sums = Moments.none(num_units), Sums()

    def update(self, rows: Tensor) -> None:
        """Add (rows, units) activations."""
        values = rows.double().cpu()
        self.moments += Moments.of(values)
        self.sums.add({"squares": values.square().sum(0)})
        self.sums.count(len(values))

    @property
    def mean(self) -> Tensor:
        """Mean over rows, (units,)."""
        return self.moments.mean

    @property
    def variance(self) -> Tensor:
        """Population variance over rows, (units,)."""
        return self.moments.variance

    @property
    def norm(self) -> Tensor:
        """Root mean square activation, (units,)."""
        return (self.sums["squares"] / self.sums.num_examples).sqrt()
