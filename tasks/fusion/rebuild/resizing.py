"""A module of the same class at other widths: its tensors replaced, and the attributes that repeat their lengths."""

from collections.abc import Mapping

from torch import Tensor, nn

from amalgam.tasks.tracing.running import copied

# Attributes that repeat a layer's widths, as (attribute, parameter, axis): kept true when the parameter is resized.
WIDTH_ATTRIBUTES = {
    nn.Linear: (("out_features", "weight", 0), ("in_features", "weight", 1)),
    nn.modules.conv._ConvNd: (("out_channels", "weight", 0), ("in_channels", "weight", 1)),
    nn.modules.batchnorm._BatchNorm: (("num_features", "running_mean", 0), ("num_features", "weight", 0)),
    nn.PReLU: (("num_parameters", "weight", 0),),
    nn.Embedding: (("embedding_dim", "weight", 1),),
    nn.RNNBase: (("hidden_size", "weight_hh_l0", 1), ("input_size", "weight_ih_l0", 1)),
}


def resize(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` with the tensors of `state`, its layers as wide as those tensors say.

    Raises ValueError if names are missing or extra, or an axis count differs.
    """
    resized = copied(module)
    current = resized.state_dict(keep_vars=True)
    if set(current) != set(state):
        odd = ", ".join(sorted(set(current) ^ set(state))[:3])
        raise ValueError(f"the tensors do not fit {type(module).__name__}: {odd} on one side only")
    replaced: dict[int, Tensor] = {}
    for name, old in current.items():
        if old.ndim != state[name].ndim:
            raise ValueError(
                f"{name} has shape {tuple(state[name].shape)}, expected one of {old.ndim} axes, like {tuple(old.shape)}"
            )
        _set(resized, name, replaced.setdefault(id(old), _like(old, state[name])))
    for layer in resized.modules():
        _set_widths(layer)
    return resized


def _like(old: Tensor, new: Tensor) -> Tensor:
    value = new.detach().to(old.dtype).clone()
    return nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, tensor)


def _set_widths(layer: nn.Module) -> None:
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1:
        _set_groups(layer)
        return
    for kind, attributes in WIDTH_ATTRIBUTES.items():
        if isinstance(layer, kind):
            for attribute, parameter, axis in attributes:
                tensor = getattr(layer, parameter)
                if tensor is not None:
                    setattr(layer, attribute, tensor.shape[axis])


def _set_groups(layer: nn.modules.conv._ConvNd) -> None:
    """A grouped convolution: as many groups of the old size as its weight now has."""
    made, read = (1, 0) if layer.transposed else (0, 1)
    each = {made: layer.out_channels // layer.groups, read: layer.in_channels // layer.groups}
    layer.groups = layer.weight.shape[0] // each[0]
    layer.out_channels, layer.in_channels = layer.groups * each[made], layer.groups * each[read]
