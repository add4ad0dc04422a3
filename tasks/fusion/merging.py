"""Fill a network with the merged parameters of several members, at whatever widths the unit maps give it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.resizing import resize
from amalgam.tasks.fusion.rebuild.way import rebuilt
from amalgam.tasks.fusion.unit_map import UnitMap, UnitMaps, maps_of
from amalgam.tasks.tracing.axes import Axes, Axis, Blocks

__all__ = ["merge", "merged_tensors", "resize", "state_of", "support"]


def merge(
    members: Sequence[nn.Module], axes: Axes, couplings: Mapping[str, Coupling], weights: Sequence[float]
) -> nn.Module:
    """The fused network `sum_k merge_k . W_k . unmerge_k`, in the members' dtype and on their device.

    `couplings` names every hidden group of `axes`. The members are not changed. Raises ValueError if a parameter that
    belongs to no unit differs between members, or if the network cannot be rebuilt at other widths.
    """
    states = [axes.read(state_of(member, axes)) for member in members]
    maps = maps_of(axes, states, couplings, weights)
    return rebuilt(members[0], axes, merged_tensors(axes, states, maps), maps)


def merged_tensors(axes: Axes, states: Sequence[Blocks], maps: UnitMaps) -> dict[str, Tensor]:
    """Every parameter and buffer of the fused network, by name."""
    return axes.join({name: _merged(name, axes, [state[name] for state in states], maps) for name in axes.of})


def state_of(member: nn.Module, axes: Axes) -> dict[str, Tensor]:
    """A member's state dict, and the tensors that it holds beside it (non-persistent buffers, plain attributes)."""
    state = dict(member.state_dict())
    for name in axes.traced.program.outside if axes.traced else ():
        value: object = member
        for part in name.split("."):
            value = getattr(value, part, None)
        if isinstance(value, Tensor):
            state[name] = value
    return state


def support(axes: Axes, couplings: Mapping[str, Coupling], fused: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> bool tensor of its shape in `fused`, False at structural zeros.

    An entry is structurally zero where no member has both the unit that is made and the unit that is read; what is left
    are the parameters that a block-sparse layer must store: `1 + 2 alpha - alpha^2` instead of `(1 + alpha)^2`.
    Only parameters between two hidden groups can hold zeros, and only those are returned.
    """
    held = {group: coupling.holds() for group, coupling in couplings.items()}
    result = {}
    for name, parameter in fused.named_parameters():
        blocks = [b for b, part in axes.parts.items() if part.parameter == name] or [name] * (name in axes.of)
        tables = {block: _allowed(axes.of[block], held, parameter.shape) for block in blocks}
        if any(not table.all() for table in tables.values()):
            whole = axes.join_one(name, tables)
            result[name] = whole.expand(parameter.shape)
        elif len(blocks) == 1 and sum(axis is not None and axis.group in held for axis in axes.of[name]) == 2:
            result[name] = tables[name].expand(parameter.shape)
    return result


def _allowed(entries: Sequence[Axis | None], held: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """Where a block may differ from zero, with length 1 on axes that carry no hidden units."""
    hidden = [(i, axis) for i, axis in enumerate(entries) if axis and axis.group in held]
    if len(hidden) != 2:
        return torch.ones([_length(axis, held, n) for axis, n in zip(entries, shape, strict=True)], dtype=torch.bool)
    (i, one), (j, other) = hidden
    both = torch.einsum("ka,kb->ab", _held(held, one), _held(held, other)) > 0
    return both.reshape([both.shape[(i, j).index(d)] if d in (i, j) else 1 for d in range(len(shape))])


def _length(axis: Axis | None, held: Mapping[str, Tensor], length: int) -> int:
    return held[axis.group].shape[1] * axis.repeat if axis and axis.group in held else 1


def _held(held: Mapping[str, Tensor], axis: Axis) -> Tensor:
    return held[axis.group].repeat_interleave(axis.repeat, dim=1).float()


def _merged(name: str, axes: Axes, tensors: Sequence[Tensor], maps: UnitMaps) -> Tensor:
    entries = axes.of[name]
    if not any(entries):
        return _shared(name, tensors)
    # Standard deviations, not variances, add up where matched units are perfectly correlated.
    values = [t.sqrt() for t in tensors] if name in axes.variances else list(tensors)
    total = sum(_placed(_floating(value), entries, maps, member) for member, value in enumerate(values))
    assert isinstance(total, Tensor)
    if not tensors[0].is_floating_point() and not torch.equal(total, total.round()):
        raise ValueError(f"{name} holds {tensors[0].dtype} values that differ between matched units: they have no mean")
    return (total.square() if name in axes.variances else total).to(tensors[0].dtype)


def _floating(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor.double()


def _shared(name: str, tensors: Sequence[Tensor]) -> Tensor:
    if not name.endswith("num_batches_tracked") and any(not torch.equal(tensors[0], t) for t in tensors[1:]):
        raise ValueError(f"{name} belongs to no unit and differs between the members, so no fused value is exact")
    return tensors[0].clone()


def _placed(tensor: Tensor, entries: Sequence[Axis | None], maps: UnitMaps, member: int) -> Tensor:
    for index, axis in enumerate(entries):
        if axis is not None:
            tensor = _along(tensor, index, axis, maps[axis.group][member])
    return tensor


def _along(tensor: Tensor, index: int, axis: Axis, unit_map: UnitMap) -> Tensor:
    """One axis after merging: units that make (weighted means) or that are read (sums), `repeat` entries each."""
    blocks = tensor.unflatten(index, (-1, axis.repeat))
    width = unit_map.merge.shape[0]
    if unit_map.indexed is None:
        matrix = (unit_map.unmerge.T if axis.reads else unit_map.merge).to(tensor)
        return torch.tensordot(matrix, blocks, ([1], [index])).movedim(0, index).flatten(index, index + 1)
    fused_unit, weight = (part.to(tensor.device) for part in unit_map.indexed)
    if not axis.reads:
        shape = [-1 if i == index else 1 for i in range(blocks.ndim)]
        blocks = blocks * weight.to(tensor.dtype).reshape(shape)
    shape = [width if i == index else n for i, n in enumerate(blocks.shape)]
    return blocks.new_zeros(shape).index_add_(index, fused_unit, blocks).flatten(index, index + 1)
