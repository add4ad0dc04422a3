"""Read staged activations of several members side by side, as the distances between their units."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from amalgam.pipeline.store.tables.rows import describe, read_rows
from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.tracing.capture import as_rows

ROWS, INFLUENCE = "activations.parquet", "influence.safetensors"


def staged_cost(
    folders: Sequence[Path], device: str, *, within: bool = False, with_influence: bool = False
) -> ActivationCost:
    """Distances between the units of all members, from their staged activations, read side by side.

    `within` keeps products of units of one member, too, as clustering needs; `with_influence` reads what pruning by
    Taylor and Fisher criteria needs.

    Raises ValueError unless all folders hold the same examples in the same order.
    """
    files = [folder / ROWS for folder in folders]
    cost = ActivationCost(len(files), within)
    shapes = describe(files[0]).sites
    for parts in zip(*(read_rows(file) for file in files), strict=True):
        if any(not np.array_equal(part.ids, parts[0].ids) for part in parts):
            raise ValueError(f"{files[0]} and its companions hold different examples: build them again")
        cost.update([dict(_unit_rows(part.sites, shapes, device)) for part in parts])
    if with_influence:
        each = [load_file(folder / INFLUENCE) for folder in folders]
        cost.influence = {group: torch.cat([one[group] for one in each]) for group in shapes}
    return cost


def _unit_rows(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, int]], device: str
) -> Iterator[tuple[str, Tensor]]:
    for group, (_, positions) in shapes.items():
        tensor = torch.from_numpy(values[group]).to(device).float()
        yield from as_rows({group: tensor.unflatten(1, (-1, positions))}).items()
