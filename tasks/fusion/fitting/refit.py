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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.fusion.fitting.config import Refit
from amalgam.tasks.fusion.fitting.layers import Layer
from amalgam.tasks.fusion.fitting.normal_equations import NormalEquations
from amalgam.tasks.fusion.fitting.walk import Walk
from amalgam.tasks.fusion.rebuild.rebuilding import with_own_weights
from amalgam.tasks.fusion.unit_map import UnitMap, UnitMaps
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import inputs_of
from amalgam.tasks.tracing.layout import Segment
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
    """A copy of `fused` fitted to `members`: linear and convolution layers, batch norms behind them, and the gains and
    shifts of norms over units.

    `maps` say how members' units became fused ones, `support` is False at structural zeros, by parameter. All inputs
    of `batches` are in memory at once, every network stopping before each layer. `log` receives, for every layer,
    the name of its weight and the mean squared error to its target before and after. Transposed convolutions, recurrent
    layers, and layers that are reused or computed from other parameters stay as merged. Raises ValueError if there are
    no batches.
    """
    how, allowed = how or Refit(), support or {}
    inputs = [inputs_of(batch) for batch in batches]
    if not inputs:
        raise ValueError("refitting needs at least one calibration batch, got none")
    x = torch.cat(inputs)
    fitted = copied(fused)
    walk, others = Walk(fitted, (x,)), [Walk(with_own_weights(member, axes), (x,)) for member in members]
    known = [{layer.weight for layer in other.layers.values()} for other in others]
    for layer in walk.layers.values():
        segments = _segments(axes, layer.weight)
        if not layer.is_open or not segments or not all(layer.weight in names for names in known):
            continue
        is_head = any(segment.group in axes.outputs for segment in segments)
        as_probabilities = is_head and how.head == "probabilities"
        target = functools.partial(_target, segments=segments, maps=maps, as_probabilities=as_probabilities)
        walk.before(layer.weight)
        outputs = [member.output_of(member.before(layer.weight), final=True) for member in others]
        found = _equations(layer, walk, outputs, target, how)
        change = found.solve(how.ridge, _columns(layer, allowed.get(layer.weight)), layer.has_bias)
        if log:
            log(layer.weight, *(float(e.mean()) / found.num_rows for e in (found.error(), found.error(change))))
        _write(layer, walk.state, change, found)
    return fitted


def _segments(axes: Axes, weight: str) -> Sequence[Segment]:
    """The units that a layer makes, in order, as they lie in a member; none if all members share some of them."""
    found = next((layouts[0] for name, layouts in axes.layouts.items() if name == weight), None)
    if found is not None:
        return found.segments if all(segment.group for segment in found.segments) else ()
    entry = axes.of.get(weight, (None,))[0]
    return (Segment(entry.group, np.arange(entry.repeat)[None]),) if entry else ()


def _target(outputs: Sequence[Tensor], segments: Sequence[Segment], maps: UnitMaps, as_probabilities: bool) -> Tensor:
    """(rows, fused entries): the merged outputs of the members at one layer, or logits of their mean probabilities."""
    if as_probabilities:
        mixed = _combined([y.softmax(-1) for y in outputs], segments, maps)
        logs = mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()
        return logs - logs.mean(1, keepdim=True)
    return _combined(outputs, segments, maps)


def _combined(outputs: Sequence[Tensor], segments: Sequence[Segment], maps: UnitMaps) -> Tensor:
    parts = []
    for segment in segments:
        assert segment.group
        # A single segment is the whole axis, at whatever width a member has.
        own = [y if len(segments) == 1 else y[:, torch.from_numpy(segment.entries.ravel())] for y in outputs]
        each = zip(maps[segment.group], own, strict=True)
        parts.append(torch.stack([_merged(unit_map, y, segment.repeat) for unit_map, y in each]).sum(0))
    return torch.cat(parts, 1)


def _merged(unit_map: UnitMap, rows: Tensor, repeat: int) -> Tensor:
    if repeat == 1:
        return unit_map.merged(rows)
    entries = rows.unflatten(1, (-1, repeat)).movedim(2, 1).flatten(0, 1)  # a row for each entry of a unit
    return unit_map.merged(entries).unflatten(0, (-1, repeat)).movedim(1, 2).flatten(1)


def _equations(
    layer: Layer, walk: Walk, outputs: Sequence[Tensor], target: Callable[[list[Tensor]], Tensor], how: Refit
) -> NormalEquations:
    """The layer's sums over (a share of) the positions of all images; `outputs` are those of the members."""
    x, current = walk.input_of(layer), walk.output_of(layer)
    first = layer.parted(layer.rows(current, torch.arange(1, device=x.device)))
    num_features = walk.state[layer.weight][0].numel() * (len(first) if first.ndim == 3 else 1)
    num_rows = layer.num_rows(current)
    step = max(1, num_rows // (how.rows_per_feature * num_features))
    parts = []
    for kept in torch.arange(0, num_rows, step, device=x.device).split(max(1, CHUNK // num_features)):
        rows = layer.features(x, kept)
        rows = F.pad(rows, (0, 1), value=1.0) if layer.has_bias else rows
        residuals = target([layer.rows(y, kept) for y in outputs]) - layer.rows(current, kept)
        parts.append(NormalEquations.of(rows, layer.parted(residuals)))
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
    if not layer.norm_names:
        weight.add_((change[..., :-1] if layer.has_bias else change).reshape(weight.shape).to(weight))
        if bias is not None:
            bias.add_(change[..., -1].reshape(-1).to(bias))
        return
    gain, shift, mean, variance = (state[name] for name in layer.norm_names)
    eps = float(arguments_of(layer.then)["eps"])  # type: ignore[arg-type]
    # Layer and norm are one affine map, scale (W h + b - mean) + shift, which is fitted and then divided among them.
    scale = (gain / (variance + eps).sqrt()).double()
    constant = shift.double() - mean.double() * scale + (bias.double() * scale if bias is not None else 0.0)
    folded = torch.cat([weight.flatten(1).double() * scale[:, None], constant[:, None]], 1) + change.flatten(0, -2)
    weight.copy_(folded[:, :-1].reshape(weight.shape).to(weight))
    if bias is not None:
        bias.zero_()
    # The norm's statistics are those of its new inputs, so that it computes the same when it is trained on.
    centred = torch.cat([folded[:, :-1], torch.zeros_like(constant[:, None])], 1)
    new_mean, new_variance = (moment.flatten() for moment in found.moments(centred.reshape(change.shape)))
    for old, new in ((gain, (new_variance + eps).sqrt()), (shift, folded[:, -1] + new_mean)):
        old.copy_(new.to(old))
    mean.copy_(new_mean.to(mean))
    variance.copy_(new_variance.to(variance))
