"""Fill a network with the merged parameters of several members, at whatever widths the unit maps give it."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.unit_map import UnitMaps, unit_maps
from amalgam.tasks.tracing.axes import OUTPUT, Axes, Axis

# Attributes that repeat a layer's widths, as (attribute, parameter, axis): kept true when the parameter is resized.
WIDTH_ATTRIBUTES = {
    nn.Linear: (("out_features", "weight", 0), ("in_features", "weight", 1)),
    nn.modules.conv._ConvNd: (("out_channels", "weight", 0), ("in_channels", "weight", 1)),
    nn.modules.batchnorm._BatchNorm: (("num_features", "running_mean", 0), ("num_features", "weight", 0)),
    nn.PReLU: (("num_parameters", "weight", 0),),
}


def merge(
    members: Sequence[nn.Module], axes: Axes, couplings: Mapping[str, Coupling], weights: Sequence[float]
) -> nn.Module:
    """The fused network `sum_k merge_k . W_k . unmerge_k`, in the members' dtype and on their device.

    `couplings` names every hidden group of `axes`. The members are not changed. Raises ValueError if a parameter that
    belongs to no unit (a learned temperature, say) differs between members, for then nothing can stand for both.
    """
    states = [member.state_dict() for member in members]
    maps = unit_maps(couplings, weights, axes.sizes(states[0])[OUTPUT])
    fused = {name: _merged(name, axes, [state[name] for state in states], maps) for name in axes.of}
    return resize(members[0], fused)


def resize(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` that holds the tensors of `state`, its layers as wide as those tensors say.

    Raises ValueError if names are missing or extra, or an axis count differs.
    """
    resized = copy.deepcopy(module)
    current = resized.state_dict(keep_vars=True)
    if set(current) != set(state):
        odd = ", ".join(sorted(set(current) ^ set(state))[:3])
        raise ValueError(f"the tensors do not fit {type(module).__name__}: {odd} on one side only")
    replaced: dict[int, Tensor] = {}
    for name, old in current.items():
        if old.ndim != state[name].ndim:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, which cannot stand for {tuple(old.shape)}")
        _set(resized, name, replaced.setdefault(id(old), _like(old, state[name])))
    for layer in resized.modules():
        _set_widths(layer)
    return resized


def support(axes: Axes, couplings: Mapping[str, Coupling], fused: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> bool tensor of its shape in `fused`, False at structural zeros.

    An entry is structurally zero where no member has both the unit that is made and the unit that is read; what is left
    are the parameters that a block-sparse layer must store: `1 + 2 alpha - alpha^2` instead of `(1 + alpha)^2`.
    Only parameters between two hidden groups can hold zeros, and only those are returned.
    """
    held = {group: coupling.holds() for group, coupling in couplings.items()}
    shapes = {name: parameter.shape for name, parameter in fused.named_parameters()}
    result = {}
    for name, shape in shapes.items():
        hidden = [(i, axis) for i, axis in enumerate(axes.of[name]) if axis and axis.group != OUTPUT]
        if len(hidden) == 2:
            (i, one), (j, other) = hidden
            both = torch.einsum("ka,kb->ab", _held(held, one), _held(held, other)) > 0
            aligned = [length if d in (i, j) else 1 for d, length in enumerate(shape)]
            result[name] = both.reshape(aligned).expand(shape)
    return result


def _held(held: Mapping[str, Tensor], axis: Axis) -> Tensor:
    return held[axis.group].repeat_interleave(axis.repeat, dim=1).float()


def _merged(name: str, axes: Axes, tensors: Sequence[Tensor], maps: UnitMaps) -> Tensor:
    entries = axes.of[name]
    if not any(entries):
        return _shared(name, tensors)
    # Standard deviations, not variances, add up where matched units are perfectly correlated.
    values = [t.sqrt() for t in tensors] if name in axes.variances else list(tensors)
    total = sum(_placed(value, entries, maps, member) for member, value in enumerate(values))
    assert isinstance(total, Tensor)
    return total.square() if name in axes.variances else total


def _shared(name: str, tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].is_floating_point() and any(not torch.equal(tensors[0], t) for t in tensors[1:]):
        raise ValueError(f"{name} belongs to no unit and differs between the members, so no fused value is exact")
    return tensors[0].clone()


def _placed(tensor: Tensor, entries: Sequence[Axis | None], maps: UnitMaps, member: int) -> Tensor:
    for index, axis in enumerate(entries):
        if axis is not None:
            unit_map = maps[axis.group][member]
            tensor = _along(tensor, index, axis.repeat, unit_map.unmerge.T if axis.reads else unit_map.merge)
    return tensor


def _along(tensor: Tensor, index: int, repeat: int, matrix: Tensor) -> Tensor:
    """Apply a (new, old) matrix to the units along one axis, block by block of `repeat` entries."""
    moved = tensor.movedim(index, 0)
    flat = moved.reshape(matrix.shape[1], -1)
    mapped = matrix.to(flat) @ flat
    return mapped.reshape(matrix.shape[0] * repeat, *moved.shape[1:]).movedim(0, index).contiguous()


def _like(old: Tensor, new: Tensor) -> Tensor:
    value = new.detach().to(old.dtype).clone()
    return nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, tensor)


def _set_widths(layer: nn.Module) -> None:
    for kind, attributes in WIDTH_ATTRIBUTES.items():
        if isinstance(layer, kind):
            for attribute, parameter, axis in attributes:
                tensor = getattr(layer, parameter)
                if tensor is not None:
                    setattr(layer, attribute, tensor.shape[axis])
