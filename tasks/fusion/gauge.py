"""A canonical form of each network: scales of units that its function does not depend on are fixed.

A ReLU unit computes the same when what makes it is multiplied by c > 0 and what reads it divided by c, and a
convolution before batch norm may have any scale. Distances between weights see such scales, so matching and averaging
would depend on them. Here every batch norm gets unit variance, and every unit whose scale is free is balanced: what
makes it has the norm of what reads it, the representation of least total norm, which is unique.

Which scales are free is not read off the layers but tried out: they are changed at random, and the outputs compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.running import copied, tensors_in

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
    network = copied(member).eval()
    state, before = dict(network.state_dict()), _outputs(network, inputs)
    pairs = [
        pair
        for pair in _candidates(network, axes)
        if _is_free(network, inputs, before, _names_of(pair), partial(_unit_variance, network, pair))
    ]
    for pair in pairs:
        _unit_variance(network, pair)
    # Parts of tensors that several groups share are no tensors of the network: such groups keep their scales.
    whole = {g: [name for name, _ in axes.parameters_of(g)] for g in axes.groups}
    makers = {g: _makers(network, axes, g, [conv for conv, _ in pairs]) for g in whole if set(whole[g]) <= set(state)}
    free = {
        group: made
        for group, made in makers.items()
        if _is_free(network, inputs, before, whole[group], partial(_random_scale, state, axes, group, made))
    }
    for group, scale in _scales(state, axes, free, compared or {}).items():
        _rescale(state, axes, group, free[group], scale)
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


def _names_of(pair: Pair) -> list[str]:
    layer, norm = pair
    return [f"{layer}.weight", f"{layer}.bias", f"{norm}.running_mean", f"{norm}.running_var"]


def _unit_variance(network: nn.Module, pair: Pair) -> None:
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


def _random_scale(state: Mapping[str, Tensor], axes: Axes, group: str, makers: Sequence[str]) -> None:
    size = axes.sizes(state)[group]
    _rescale(state, axes, group, makers, 0.5 + 1.5 * torch.rand(size, generator=torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class _Squares:
    """Sums of the squared entries of one parameter over everything but the units of groups whose scales are free."""

    table: Tensor
    """One axis for each of those groups, in double precision."""
    groups: tuple[str, ...]
    powers: tuple[int, ...]
    """How the parameter scales with a unit of each: 1 if it makes the unit, -1 if it reads it, 0 if neither."""

    def along(self, place: int, scales: Mapping[str, Tensor]) -> Tensor:
        """(units,): the squared norms of the units of one axis, at the scales of all."""
        total = self.table
        for axis in reversed([axis for axis in range(len(self.groups)) if axis != place]):
            total = torch.tensordot(total, scales[self.groups[axis]].pow(2 * self.powers[axis]), ([axis], [0]))
        return total * scales[self.groups[place]].pow(2 * self.powers[place])


def _scales(
    state: Mapping[str, Tensor], axes: Axes, makers: Mapping[str, Sequence[str]], compared: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The balanced scale of each unit of the groups that `makers` names, found unit by unit until none changes."""
    names = {name for group in makers for name, _ in axes.parameters_of(group)}
    tables = [_squares(name, state[name], axes, makers, compared) for name in sorted(names)]
    places = {g: [(t, i) for t in tables for i, one in enumerate(t.groups) if one == g and t.powers[i]] for g in makers}
    sizes = axes.sizes(state)
    scales = {group: torch.ones(sizes[group], dtype=torch.float64) for group in makers}
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for group, found in places.items():
            made, read = (
                sum((t.along(i, scales) for t, i in found if t.powers[i] == power), torch.zeros_like(scales[group]))
                for power in (1, -1)
            )
            usable = (made > 0) & (read > 0)
            # At scale s the squared norms sum to s^2 made + read / s^2, which is least at s^4 = read / made.
            scale = torch.where(usable, (read / made.clamp_min(1e-300)).pow(0.25), 1.0)
            scales[group] = scales[group] * scale
            largest = max(largest, float(scale.log().abs().max()))
        if largest < SETTLED:
            break
    return scales


def _squares(
    name: str, tensor: Tensor, axes: Axes, makers: Mapping[str, Sequence[str]], compared: Mapping[str, Tensor]
) -> _Squares:
    groups, powers = [], []
    squares = tensor.detach().cpu().double().square()
    for index in reversed(range(tensor.ndim)):
        axis = axes.of[name][index]
        if axis and axis.group in compared:
            squares = (
                squares.unflatten(index, (-1, axis.repeat)).index_select(index, compared[axis.group]).sum(index + 1)
            )
        if axis and axis.group in makers:
            squares = squares.unflatten(index, (-1, axis.repeat)).sum(index + 1)
            groups.append(axis.group)
            powers.append(-1 if axis.reads else int(name in makers[axis.group]))
        else:
            squares = squares.sum(index)
    return _Squares(squares, tuple(reversed(groups)), tuple(reversed(powers)))


def _rescale(state: Mapping[str, Tensor], axes: Axes, group: str, makers: Sequence[str], scale: Tensor) -> None:
    for name, index in axes.parameters_of(group):
        axis = axes.of[name][index]
        assert axis is not None
        if axis.reads or name in makers:
            factor = scale.repeat_interleave(axis.repeat).to(state[name])
            shape = [-1 if i == index else 1 for i in range(state[name].ndim)]
            state[name].mul_((1 / factor if axis.reads else factor).reshape(shape))


def _is_free(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    before: Sequence[Tensor],
    names: Iterable[str],
    change: Callable[[], None],
) -> bool:
    """Whether a change of the named tensors leaves the outputs as they were `before`; it is taken back."""
    state = network.state_dict()
    kept = {name: state[name].clone() for name in names if name in state}
    change()
    after = _outputs(network, inputs)
    for name, tensor in kept.items():
        state[name].copy_(tensor)
    for old, new in zip(before, after, strict=True):
        if not (new - old).abs().max() <= TOLERANCE.get(old.dtype, 1e-2) * float(old.abs().max()):
            return False
    return True


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Every floating tensor that a network returns, in a tuple or dictionary too."""
    return [tensor for tensor in tensors_in(network(*inputs)) if tensor.is_floating_point()]
