"""A canonical form of each network: scales of units that its function does not depend on are fixed.

A ReLU unit computes the same when what makes it is multiplied by c > 0 and what reads it divided by c, and a
convolution before batch norm may have any scale. Distances between weights see such scales, so matching and averaging
would depend on them. Here every batch norm gets unit variance, and every unit whose scale is free is balanced: what
makes it has the norm of what reads it, the representation of least total norm, which is unique.

Which scales are free is not read off the layers but tried out: they are changed at random, and the outputs compared.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.running import tensors_in

MAX_SWEEPS = 200
SETTLED = 1e-12  # largest change of a logarithm of a scale at which balancing has converged
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Relative change of the outputs that is rounding: a scale that is not free changes them by far more."""

Pair = tuple[str, str]
"""Path of a convolution or linear layer, and of the batch norm behind it."""


@torch.no_grad()
def balanced(
    member: nn.Module,
    axes: Axes,
    example: Tensor | tuple[Tensor, ...],
    compared: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of `member` that computes the same, with every free scale of its units fixed.

    `compared` gives, for heads of which members know different classes, those that all of them know, so that equal
    members get equal scales. A network whose blocks are not its own parameters (concatenations, computed weights) is
    returned as it is.
    """
    if set(axes.of) - set(member.state_dict()):
        return member
    inputs = example if isinstance(example, tuple) else (example,)
    network = copy.deepcopy(member).eval()
    state = dict(network.state_dict())
    pairs = [pair for pair in _candidates(network, axes) if _is_free(network, inputs, _unit_variance, (axes, pair))]
    for pair in pairs:
        _unit_variance(network, axes, pair)
    # Parts of tensors that several groups share are no tensors of the network: such groups keep their scales.
    whole = [group for group in axes.groups if all(name in state for name, _ in axes.parameters_of(group))]
    makers = {group: _makers(network, axes, group, [conv for conv, _ in pairs]) for group in whole}
    free = [group for group in whole if _is_free(network, inputs, _random_scale, (axes, group, makers[group]))]
    for _ in range(MAX_SWEEPS):
        if max([_balance(state, axes, group, makers[group], compared or {}) for group in free], default=0.0) < SETTLED:
            break
    return network.train(member.training)


def _candidates(network: nn.Module, axes: Axes) -> list[Pair]:
    """Every batch norm with the last layer before it that makes units of its group."""
    found, state, paths = [], network.state_dict(), dict(network.named_modules())
    for variance in sorted(axes.variances):
        norm = variance.removesuffix(".running_var")
        axis, names = axes.of[variance][0], [name for name in axes.of if name in state]
        first = f"{norm}.weight" if f"{norm}.weight" in names else variance
        layers = (
            [n for n in names[: names.index(first)] if axis and _makes(axes, n, axis.group)]
            if isinstance(paths.get(norm), nn.modules.batchnorm._NormBase)
            else []
        )
        if layers and layers[-1].removesuffix(".weight") in paths:
            found.append((layers[-1].removesuffix(".weight"), norm))
    return found


def _makes(axes: Axes, name: str, group: str) -> bool:
    first = axes.of[name][0] if len(axes.of[name]) > 1 else None
    return first is not None and first.group == group and not first.reads


def _unit_variance(network: nn.Module, axes: Axes, pair: Pair) -> None:
    """Scale the layer so that the norm behind it divides by 1."""
    layer, norm = (network.get_submodule(path) for path in pair)
    weight, bias, mean, variance = layer.weight, layer.bias, norm.running_mean, norm.running_var
    assert isinstance(weight, Tensor) and isinstance(mean, Tensor) and isinstance(variance, Tensor)
    eps = float(norm.eps)  # type: ignore[arg-type]
    # Inputs, mean and deviation times s give the same normalised values: s = 1 / sqrt(variance + eps) divides by 1.
    scale = (variance.double() + eps).rsqrt()
    weight.mul_(scale.to(weight).reshape(-1, *[1] * (weight.ndim - 1)))
    if isinstance(bias, Tensor):
        bias.mul_(scale.to(bias))
    mean.mul_(scale.to(mean))
    variance.fill_(1 - eps)


def _makers(network: nn.Module, axes: Axes, group: str, normed: Sequence[str]) -> list[str]:
    """Parameters that scale with a unit: of layers, or of the batch norms behind them."""
    skipped = {f"{path}.{leaf}" for path in normed for leaf in ("weight", "bias")} | axes.means | axes.variances
    slopes = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, nn.PReLU)}
    return [
        name
        for name, index in axes.parameters_of(group)
        if not getattr(axes.of[name][index], "reads", True) and name not in skipped | slopes
    ]


def _random_scale(network: nn.Module, axes: Axes, group: str, makers: Sequence[str]) -> None:
    state = network.state_dict()
    size = axes.sizes(state)[group]
    _rescale(state, axes, group, makers, 0.5 + 1.5 * torch.rand(size, generator=torch.Generator().manual_seed(0)))


def _balance(
    state: Mapping[str, Tensor], axes: Axes, group: str, makers: Sequence[str], compared: Mapping[str, Tensor]
) -> float:
    """Give each unit of a group its balanced scale; the largest logarithm of a scale."""
    made = read = torch.zeros((), dtype=torch.float64)
    for name, index in axes.parameters_of(group):
        axis = axes.of[name][index]
        assert axis is not None
        tensor = state[name]
        for other, head in enumerate(axes.of[name]):
            if head and head.group in compared:
                entries = tensor.unflatten(other, (-1, head.repeat)).index_select(other, compared[head.group])
                tensor = entries.flatten(other, other + 1)
        rows = tensor.movedim(index, 0).reshape(tensor.shape[index] // axis.repeat, -1)
        square = rows.double().square().sum(1)
        if axis.reads:
            read = read + square
        elif name in makers:
            made = made + square
    usable = (made > 0) & (read > 0)
    # At scale s the squared norms sum to s^2 made + read / s^2, which is least at s^4 = read / made.
    scale = torch.where(usable, (read / made.clamp_min(1e-300)).pow(0.25), 1.0)
    _rescale(state, axes, group, makers, scale)
    return float(scale.log().abs().max())


def _rescale(state: Mapping[str, Tensor], axes: Axes, group: str, makers: Sequence[str], scale: Tensor) -> None:
    for name, index in axes.parameters_of(group):
        axis = axes.of[name][index]
        assert axis is not None
        if axis.reads or name in makers:
            factor = scale.repeat_interleave(axis.repeat).to(state[name])
            shape = [-1 if i == index else 1 for i in range(state[name].ndim)]
            state[name].mul_((1 / factor if axis.reads else factor).reshape(shape))


def _is_free(
    network: nn.Module, inputs: tuple[Tensor, ...], change: Callable[..., None], arguments: tuple[Any, ...]
) -> bool:
    """Whether a change leaves the outputs as they are; the network itself is not changed."""
    tried = copy.deepcopy(network)
    change(tried, *arguments)
    for before, after in zip(_outputs(network, inputs), _outputs(tried, inputs), strict=True):
        limit = TOLERANCE.get(before.dtype, 1e-2) * float(before.abs().max())
        if not (after - before).abs().max() <= limit:
            return False
    return True


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Every floating tensor that a network returns, in a tuple or dictionary too."""
    return [tensor for tensor in tensors_in(network(*inputs)) if tensor.is_floating_point()]
