"""Fill a network with the merged parameters of several members, at whatever widths the unit maps give it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.rebuilding import rebuilt
from amalgam.tasks.fusion.rebuild.tensors import COUNTER, merged_tensors, state_of
from amalgam.tasks.fusion.unit_map import maps_of
from amalgam.tasks.tracing.axes import Axes, Axis, Blocks

LOG = logging.getLogger(__name__)


def merge(
    members: Sequence[nn.Module], axes: Axes, couplings: Mapping[str, Coupling], weights: Sequence[float]
) -> nn.Module:
    """The fused network `sum_k merge_k . W_k . unmerge_k`, in the members' dtype and on their device.

    `couplings` names every hidden group of `axes`. The members are not changed. Raises ValueError if a parameter that
    belongs to no unit differs between members, or if the network cannot be rebuilt at other widths.
    """
    states = [axes.read(state_of(member, axes)) for member in members]
    axes = _without_unread(axes, states)
    maps = maps_of(axes, states, couplings, weights)
    return rebuilt(members[0], axes, merged_tensors(axes, states, maps), maps)


def _without_unread(axes: Axes, states: Sequence[Blocks]) -> Axes:
    """The axes without parameters that no operation of the eval mode reads and that differ between members.

    Such are auxiliary heads, which serve training alone: a fused network has no place for them.
    """
    if axes.traced is None:
        return axes
    read = {*axes.traced.flow.tensors.values(), *axes.parts, *axes.layouts}
    unread = [
        name
        for name in axes.of.keys() - read
        if not any(axes.of[name])  # another name of a parameter that is read carries its units
        and not name.endswith(COUNTER)
        and any(not torch.equal(states[0][name], state[name]) for state in states)
    ]
    for name in sorted(unread):
        LOG.warning("%s is left out: it is used in training only", name)
    return replace(axes, of={name: entries for name, entries in axes.of.items() if name not in unread})


def support(axes: Axes, couplings: Mapping[str, Coupling], fused: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> bool tensor of its shape in `fused`, False at structural zeros.

    An entry is structurally zero where no member has both the unit that is made and the unit that is read; what is left
    are the parameters that a block-sparse layer must store: `1 + 2 alpha - alpha^2` instead of `(1 + alpha)^2`.
    Only parameters between two hidden groups can have such zeros, and only those are returned.
    """
    members = {group: coupling.contains() for group, coupling in couplings.items()}
    result = {}
    for name, parameter in fused.named_parameters():
        blocks = [b for b, part in axes.parts.items() if part.parameter == name] or [name] * (name in axes.of)
        tables = {block: _allowed(axes.of[block], members, parameter.shape) for block in blocks}
        if any(not table.all() for table in tables.values()):
            whole = axes.join_one(name, tables)
            result[name] = whole.expand(parameter.shape)
        elif len(blocks) == 1 and sum(axis is not None and axis.group in members for axis in axes.of[name]) == 2:
            result[name] = tables[name].expand(parameter.shape)
    return result


def _allowed(entries: Sequence[Axis | None], members: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """Where a block may differ from zero, with length 1 on axes that carry no hidden units."""
    hidden = [(i, axis) for i, axis in enumerate(entries) if axis and axis.group in members]
    if len(hidden) != 2:
        return torch.ones([_length(axis, members, n) for axis, n in zip(entries, shape, strict=True)], dtype=torch.bool)
    (i, one), (j, other) = hidden
    both = torch.einsum("ka,kb->ab", _entries(members, one), _entries(members, other)) > 0
    return both.reshape([both.shape[(i, j).index(d)] if d in (i, j) else 1 for d in range(len(shape))])


def _length(axis: Axis | None, members: Mapping[str, Tensor], length: int) -> int:
    return members[axis.group].shape[1] * axis.repeat if axis and axis.group in members else 1


def _entries(members: Mapping[str, Tensor], axis: Axis) -> Tensor:
    return members[axis.group].repeat_interleave(axis.repeat, dim=1).float()
