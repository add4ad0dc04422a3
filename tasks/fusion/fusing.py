"""Several trained networks in, one network of any size out: trace, match, merge, recalibrate."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.couplings.gauge import balanced
from amalgam.tasks.fusion.fitting.norms import batch_norms, recalibrate
from amalgam.tasks.fusion.fitting.repair import repair
from amalgam.tasks.fusion.merging import merge, support
from amalgam.tasks.fusion.methods import Method, Refit
from amalgam.tasks.fusion.refit import refit as fit_layers
from amalgam.tasks.fusion.unit_map import maps_of
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import as_rows, captured, sites
from amalgam.tasks.tracing.trace import trace


def fuse(
    members: Sequence[nn.Module],
    method: Method,
    example: Tensor | tuple[Tensor, ...],
    weights: Sequence[float] | None = None,
    calibration: Iterable[Any] | None = None,
    refit: Refit | bool = True,
) -> nn.Module:
    """One network made of `members`, matched by `method`; the members are left untouched.

    `members` are networks of one architecture, `example` what their forward takes, `weights` one non-negative number
    per member that sum to 1 (equal ones if None). `calibration` is a stream of unaugmented input batches (or tuples
    that start with one): matching by activations reads it, and the layers of the fused network are fitted to the
    ensemble on it (`refit`, with settings of its own if a `Refit` is given). With `refit=False` only statistics are
    corrected on it: batch norms recalibrated or, without batch norm, layers repaired. Without it, running statistics
    are merged like every other parameter.

    Scales of units on which a member's function does not depend are fixed first, so the result does not depend on them.

    Raises ValueError for members of different architectures, NaN in weights, or weights that do not sum to 1.
    """
    shares = checked_weights(weights, len(members))
    axes = trace(members[0], example)
    check_members(members, axes)
    batches = list(calibration) if isinstance(calibration, Iterator) else calibration
    if method.fixes_gauge:
        members = [balanced(member, axes, example) for member in members]
    activations = None
    if method.needs_activations and batches is not None:
        activations = activation_cost(members, axes, batches, within=method.needs_gram)
    method = method.prepared(members[0], example)
    matching = method(axes, [member.state_dict() for member in members], activations)
    fused = merge(members, axes, matching.couplings(), shares)
    if batches is None:
        return fused
    if refit:
        how = refit if isinstance(refit, Refit) else Refit()
        return refitted(fused, members, axes, matching.couplings(), shares, batches, how)
    return restored(fused, members, axes, matching.couplings(), shares, batches)


def refitted(
    fused: nn.Module,
    members: Sequence[nn.Module],
    axes: Axes,
    couplings: Mapping[str, Coupling],
    weights: Sequence[float],
    batches: Iterable[Any],
    how: Refit,
) -> nn.Module:
    """A copy of `fused` whose layers are fitted to the ensemble on `batches`, structural zeros kept."""
    maps = maps_of(axes, [member.state_dict() for member in members], couplings, weights)
    return fit_layers(fused, members, axes, maps, batches, how=how, support=support(axes, couplings, fused))


def restored(
    fused: nn.Module,
    members: Sequence[nn.Module],
    axes: Axes,
    couplings: Mapping[str, Coupling],
    weights: Sequence[float],
    batches: Iterable[Any],
) -> nn.Module:
    """A copy of `fused` with its statistics set right on `batches`: batch norms recalibrated, or layers repaired."""
    if batch_norms(fused):
        return recalibrate(fused, batches)
    maps = maps_of(axes, [member.state_dict() for member in members], couplings, weights)
    return repair(fused, members, axes, maps, batches)


def activation_cost(
    members: Sequence[nn.Module], axes: Axes, batches: Iterable[Any], *, within: bool = False
) -> ActivationCost:
    """Distances between all members' units on the same stream of inputs; products `within` members if asked for."""
    cost = ActivationCost(len(members), within)
    where = [sites(member, axes) for member in members]
    for batch in batches:
        cost.update([as_rows(next(captured(m, w, [batch]))) for m, w in zip(members, where, strict=True)])
    return cost


def checked_weights(weights: Sequence[float] | None, num_members: int) -> tuple[float, ...]:
    """The members' weights, equal ones if None. Raises ValueError unless they are non-negative and sum to 1."""
    if num_members < 1:
        raise ValueError("fusion needs at least one member, got none")
    shares = (1 / num_members,) * num_members if weights is None else tuple(float(w) for w in weights)
    if len(shares) != num_members:
        raise ValueError(f"give one weight per member: {num_members} members, {len(shares)} weights")
    if not all(math.isfinite(w) and w >= 0 for w in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"weights must be non-negative and sum to 1, got {shares} (sum {sum(shares):g})")
    return shares


def check_members(members: Sequence[nn.Module], axes: Axes) -> None:
    """Raise ValueError unless all members are finite networks of the traced architecture; hidden widths may differ."""
    layers = [{name: type(m) for name, m in member.named_modules()} for member in members]
    outputs = []
    for position, member in enumerate(members):
        if layers[position] != layers[0]:
            raise ValueError(f"member {position} is of another architecture than member 0")
        state = member.state_dict()
        try:
            sizes = axes.sizes(state)
            outputs.append([sizes[group] for group in axes.outputs])
        except ValueError as error:
            raise ValueError(f"member {position} is of another architecture than member 0: {error}") from error
        bad = [name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise ValueError(f"member {position} holds NaN or infinity in {bad[0]}")
    if any(counts != outputs[0] for counts in outputs):
        raise ValueError(f"members must have the same number of outputs, got {outputs}")
