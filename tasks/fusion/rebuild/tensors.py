"""The tensors of a fused network from those of its members, and those of a member from itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.unit_map import IndexedMap, UnitMap, UnitMaps
from amalgam.tasks.tracing.axes import Axes, Axis, Blocks

COUNTER = "num_batches_tracked"  # of batch norms, which nothing reads


def merged_tensors(axes: Axes, states: Sequence[Blocks], maps: UnitMaps) -> dict[str, Tensor]:
    """Every parameter and buffer of the fused network, by name."""
    return axes.join({name: _merged(name, axes, [state[name] for state in states], maps) for name in axes.of})


def state_of(member: nn.Module, axes: Axes) -> dict[str, Tensor]:
    """A member's state dict, and the tensors outside it (non-persistent buffers, plain attributes)."""
    state = dict(member.state_dict())
    for name in axes.traced.program.outside if axes.traced else ():
        value: object = member
        for part in name.split("."):
            value = getattr(value, part, None)
        if isinstance(value, Tensor):
            state[name] = value
    return state


def _merged(name: str, axes: Axes, tensors: Sequence[Tensor], maps: UnitMaps) -> Tensor:
    entries = axes.of[name]
    if not any(entries):
        return _shared(name, tensors)
    # Standard deviations, not variances, add up where matched units are perfectly correlated.
    values = [t.sqrt() for t in tensors] if name in axes.variances else list(tensors)
    total: Tensor | None = None
    for member, value in enumerate(values):
        total = _added(total, _floating(value), entries, maps, member)
    assert total is not None
    if not tensors[0].is_floating_point() and not torch.equal(total, total.round()):
        raise ValueError(f"{name} is {tensors[0].dtype} and differs between matched units, so it cannot be averaged")
    return (total.square() if name in axes.variances else total).to(tensors[0].dtype)


def _floating(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor.double()


def _shared(name: str, tensors: Sequence[Tensor]) -> Tensor:
    if not name.endswith(COUNTER) and any(not torch.equal(tensors[0], t) for t in tensors[1:]):
        raise ValueError(f"{name} belongs to no unit but differs between the members, so no fused value is exact")
    return tensors[0].clone()


def _added(total: Tensor | None, tensor: Tensor, entries: Sequence[Axis | None], maps: UnitMaps, member: int) -> Tensor:
    """One member's part of a parameter, added to those of the members before it."""
    first, *others = [(i, axis, maps[axis.group][member]) for i, axis in enumerate(entries) if axis]
    for index, axis, unit_map in others:
        tensor = along(tensor, index, axis, unit_map)
    return along(tensor, *first, total)


def along(tensor: Tensor, index: int, axis: Axis, unit_map: UnitMap, total: Tensor | None = None) -> Tensor:
    """One axis after merging: units that make (weighted means) or that are read (sums), `repeat` entries each.

    With a `total` of that shape the result is added to it, in place where units are only moved.
    """
    blocks = tensor.unflatten(index, (-1, axis.repeat))
    if not isinstance(unit_map, IndexedMap):
        matrix = (unit_map.unmerge.T if axis.reads else unit_map.merge).to(tensor)
        found = torch.tensordot(matrix, blocks, ([1], [index])).movedim(0, index).flatten(index, index + 1)
        return found if total is None else total + found
    fused_unit, weight = unit_map.fused_unit.to(tensor.device), unit_map.weight.to(tensor.device)
    if not axis.reads:
        shape = [-1 if i == index else 1 for i in range(blocks.ndim)]
        blocks = blocks * weight.to(tensor.dtype).reshape(shape)
    if total is None:
        total = tensor.new_zeros(
            [unit_map.width * axis.repeat if i == index else n for i, n in enumerate(tensor.shape)]
        )
    total.unflatten(index, (-1, axis.repeat)).index_add_(index, fused_unit, blocks)
    return total
