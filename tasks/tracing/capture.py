"""Activations of a network's unit groups, taken where the next layer reads them, and their summaries per unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.scoring.sums import Moments, Sums
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.running import evaluating, hooked

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
    axis: int = 1
    """Where units lie in that input."""
    entries: Tensor | None = None
    """Those of the group, where it shares the axis with others."""


def sites(module: nn.Module, axes: Axes) -> list[Site]:
    """One site per hidden group, in the order of computation.

    Raises ValueError for a group that no layer reads by a weight of its own.
    """
    sizes, layers = axes.sizes(module.state_dict()), dict(module.named_modules())
    found = []
    for group in axes.groups:
        name, part = axes.reader(group), axes.parts.get(axes.reader(group))
        place = next(i for i, axis in enumerate(axes.of[name]) if axis and axis.group == group and axis.reads)
        layer = (part.parameter if part else name).removesuffix(".weight")
        if not isinstance(layers.get(layer), (nn.Linear, nn.modules.conv._ConvNd)) or layer == name:
            raise ValueError(f"activations of {group} cannot be taken: {name} is no layer's weight; use cost='weights'")
        entries = None
        if part is not None and (number := part.segments[place]) is not None:
            layout = axes.layouts[part.parameter][place]
            assert layout is not None
            entries = torch.from_numpy(layout.segments[number].entries.ravel().copy())
        axis = axes.of[name][place]
        assert axis is not None
        is_linear = isinstance(layers[layer], nn.Linear)
        found.append(Site(group, layer, sizes[group], axis.repeat, -1 if is_linear else 1, entries))
    return found


@torch.no_grad()
def capture(module: nn.Module, where: Sequence[Site], x: Tensor, *, grid: int = 2) -> dict[str, Tensor]:
    """Group -> activations on a batch, (batch, units, positions), from one forward pass in eval mode.

    Feature maps larger than `grid` x `grid` are average-pooled to that many positions; a flattened map keeps its own.
    """
    taken: dict[str, Tensor] = {}

    def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            taken[site.group] = positions_of(arguments[0], site, grid)

        return take

    handles = [module.get_submodule(site.layer).register_forward_pre_hook(hook(site)) for site in where]
    with hooked(handles), evaluating(module):
        module(x)
    return taken


def inputs_of(batch: Any) -> Tensor:
    """The input of a batch that may carry labels, as data loaders give it."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def as_rows(activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(batch, units, positions) -> (batch * positions, units): every position is an example of its own."""
    return {group: values.movedim(1, 2).flatten(0, 1) for group, values in activations.items()}


def positions_of(x: Tensor, site: Site, grid: int) -> Tensor:
    """(batch, units, positions) of what a layer reads, pooled as `capture` says."""
    values = x.movedim(site.axis, 1)
    if site.entries is not None:
        values = values.index_select(1, site.entries.to(values.device))
    places = values.ndim - 2
    if places and site.axis == 1 and places in ADAPTIVE_POOLS:
        values = values if max(values.shape[2:]) <= grid else ADAPTIVE_POOLS[places](values, grid)
    elif places:  # tokens
        values = values.flatten(2)
        values = values if values.shape[2] <= grid**2 else F.adaptive_avg_pool1d(values, grid**2)
    return values.unflatten(1, (site.units, site.repeat)).flatten(2)


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
