"""Read staged activations of several members side by side, as the distances between their units."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amalgam.pipeline.store.tables.rows import describe, read_rows
from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.tracing.capture import as_rows

ROWS = "activations.parquet"


def staged_cost(files: Sequence[Path], device: str, *, within: bool = False) -> ActivationCost:
    """Distances between the units of all members, from their staged activations, read side by side.

    `within` keeps products of units of one member, too, as clustering needs.

    Raises ValueError unless all files hold the same examples in the same order.
    """
    cost = ActivationCost(len(files), within)
    shapes = describe(files[0]).sites
    for parts in zip(*(read_rows(file) for file in files), strict=True):
        if any(not np.array_equal(part.ids, parts[0].ids) for part in parts):
            raise ValueError(f"{files[0]} and its companions hold different examples: build them again")
        cost.update([dict(_unit_rows(part.sites, shapes, device)) for part in parts])
    return cost


def _unit_rows(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, int]], device: str
) -> Iterator[tuple[str, Tensor]]:
    for group, (_, positions) in shapes.items():
        tensor = torch.from_numpy(values[group]).to(device).float()
        yield from as_rows({group: tensor.unflatten(1, (-1, positions))}).items()
