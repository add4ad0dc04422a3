"""Fit every layer of a fused network to what the ensemble computes there, in closed form and without labels.

In the order of computation, with h the fused network's own inputs of a layer (the earlier layers fitted already) and
z_k what member k computes before the activation, the layer's weights minimise

    sum over inputs of |W h - sum_k merge_k z_k|^2 + rho |W - W_0|^2   (as PLeaS does, Nasery et al. 2025)

where W_0 is the merged layer and structural zeros stay zero. A batch norm behind a layer is fitted with it; the last
layer is fitted to the combined logits. Where fusion is exact, nothing is left to explain and nothing changes.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.fusion.fitting.config import Refit
from amalgam.tasks.fusion.fitting.normal_equations import NormalEquations
from amalgam.tasks.fusion.fitting.walk import Layer, Walk
from amalgam.tasks.fusion.rebuild.rebuilding import with_own_weights
from amalgam.tasks.fusion.unit_map import UnitMap, UnitMaps
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import inputs_of
from amalgam.tasks.tracing.nodes import arguments_of
from amalgam.tasks.tracing.running import copied

CHUNK = 16_000_000  # numbers of unfolded images in memory at a time

Log = Callable[[str, float, float], None]


@torch.no_grad()
def refit(
    fused: nn.Module,
    members: Sequence[nn.Module],
    axes: Axes,
    maps: UnitMaps,
    batches: Iterable[Any],
    *,
    how: Refit | None = None,
    support: Mapping[str, Tensor] | None = None,
    log: Log | None = None,
) -> nn.Module:
    """A copy of `fused` whose linear and convolution layers (and batch norms behind them) are fitted to `members`.

    `maps` say how members' units became fused ones, `support` is False at structural zeros, by parameter. All inputs
    of `batches` are in memory at once, every network stopping before each layer. `log` receives, for every layer,
    the name of its weight and the mean squared error to its target before and after. Layers that units cannot be fitted
    in (grouped or reused ones) stay as merged. Raises ValueError if there are no batches.
    """
    how, allowed = how or Refit(), support or {}
    inputs = [inputs_of(batch) for batch in batches]
    if not inputs:
        raise ValueError("refitting needs at least one calibration batch, got none")
    x = torch.cat(inputs)
    fitted = copied(fused)
    walk, others = Walk(fitted, (x,)), [Walk(with_own_weights(member, axes), (x,)) for member in members]
    for layer in list(walk.layers()):
        entry = axes.of.get(layer.weight, (None,))[0]
        if entry is None or entry.repeat != 1:
            continue
        target = _target(layer, others, maps[entry.group], how, is_head=entry.group in axes.outputs)
        walk.before(layer.weight)
        found = _equations(layer, walk, target, how)
        change = found.solve(how.ridge, _columns(layer, allowed.get(layer.weight)), layer.has_bias)
        if log:
            log(layer.weight, *(float(e.mean()) / found.num_rows for e in (found.error(), found.error(change))))
        _write(layer, walk.state, change, found)
    return fitted


def _target(layer: Layer, others: Sequence[Walk], maps: Sequence[UnitMap], how: Refit, *, is_head: bool) -> Tensor:
    """(rows, fused units): the merged outputs of the members at one layer."""
    outputs = [layer.rows(member.output_of(member.before(layer.weight))) for member in others]
    if is_head and how.head == "probabilities":
        mixed = _combined([y.softmax(-1) for y in outputs], maps)
        logs = mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()
        return logs - logs.mean(1, keepdim=True)
    return _combined(outputs, maps)


def _combined(outputs: Sequence[Tensor], maps: Sequence[UnitMap]) -> Tensor:
    return torch.stack([m.merged(y) for m, y in zip(maps, outputs, strict=True)]).sum(0)


def _equations(layer: Layer, walk: Walk, target: Tensor, how: Refit) -> NormalEquations:
    """The layer's sums over (a share of) the positions of all images."""
    x, residuals = walk.input_of(layer), target - layer.rows(walk.output_of(layer))
    num_features, per_image = walk.state[layer.weight][0].numel(), len(residuals) // len(x)
    step = max(1, len(residuals) // (how.rows_per_feature * num_features))
    images = max(1, CHUNK // (num_features * per_image))
    parts = []
    for start in range(0, len(x), images):
        features, first = layer.features(x[start : start + images]), start * per_image
        # Every `step`-th row of all: the same places of the same images whatever the chunks.
        kept = torch.arange(-first % step, len(features), step, device=x.device)
        rows = F.pad(features[kept], (0, 1), value=1.0) if layer.has_bias else features[kept]
        parts.append(NormalEquations.of(rows, residuals[first + kept]))
    return functools.reduce(operator.add, parts)


def _columns(layer: Layer, allowed: Tensor | None) -> Tensor | None:
    """(units, features): what each unit may read; the constant always."""
    if allowed is None:
        return None
    flat = allowed.flatten(1)
    return F.pad(flat, (0, 1), value=True) if layer.has_bias else flat


def _write(layer: Layer, state: Mapping[str, Tensor], change: Tensor, found: NormalEquations) -> None:
    """Add the change to the layer's parameters in `state`; with a batch norm, to both of them as one."""
    weight, bias = state[layer.weight], state[layer.bias] if layer.bias else None
    if layer.norm is None:
        weight.add_((change[:, :-1] if layer.has_bias else change).reshape(weight.shape).to(weight))
        if bias is not None:
            bias.add_(change[:, -1].to(bias))
        return
    gain, shift, mean, variance = (state[name] for name in layer.norm_names)
    eps = float(arguments_of(layer.norm)["eps"])
    # Layer and norm are one affine map, scale (W h + b - mean) + shift, which is fitted and then divided among them.
    scale = (gain / (variance + eps).sqrt()).double()
    constant = shift.double() - mean.double() * scale + (bias.double() * scale if bias is not None else 0.0)
    folded = torch.cat([weight.flatten(1).double() * scale[:, None], constant[:, None]], 1) + change
    weight.copy_(folded[:, :-1].reshape(weight.shape).to(weight))
    if bias is not None:
        bias.zero_()
    # The norm's statistics are those of its new inputs, so that it computes the same when it is trained on.
    new_mean, new_variance = found.moments(torch.cat([folded[:, :-1], torch.zeros_like(constant[:, None])], 1))
    for old, new in ((gain, (new_variance + eps).sqrt()), (shift, folded[:, -1] + new_mean)):
        old.copy_(new.to(old))
    mean.copy_(new_mean.to(mean))
    variance.copy_(new_variance.to(variance))
