"""Several trained networks in, one network of any size out: trace, match, merge, recalibrate."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.fitting.config import Refit
from amalgam.tasks.fusion.fitting.norms import batch_norms, recalibrate
from amalgam.tasks.fusion.fitting.refit import refit as fit_layers
from amalgam.tasks.fusion.fitting.repair import repair
from amalgam.tasks.fusion.gauge import balanced
from amalgam.tasks.fusion.merging import merge, support
from amalgam.tasks.fusion.methods import Method
from amalgam.tasks.fusion.methods.classes import ClassNames, aligned, class_couplings, class_union, compared, names_of
from amalgam.tasks.fusion.methods.pruning.influence import influences
from amalgam.tasks.fusion.rebuild.checks import (
    CalibrationRole,
    batches_for,
    check_members,
    checked_batches,
    checked_weights,
    run_once,
)
from amalgam.tasks.fusion.structured import structured as with_blocks
from amalgam.tasks.fusion.unit_map import maps_of
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import as_rows, capture, inputs_of, sites
from amalgam.tasks.tracing.trace import trace

__all__ = ["activation_cost", "calibrated", "check_members", "checked_weights", "fuse"]


def fuse(
    members: Sequence[nn.Module],
    method: Method,
    example: Tensor | tuple[Tensor, ...],
    weights: Sequence[float] | None = None,
    calibration: Iterable[Any] | None = None,
    refit: Refit | bool = True,
    *,
    class_names: ClassNames | None = None,
    calibration_role: CalibrationRole = "both",
    structured: bool = False,
) -> nn.Module:
    """One network made of `members`, matched by `method`; the members are left untouched.

    `members` are networks of one architecture, `example` what their forward takes, `weights` one non-negative number
    per member that sum to 1 (equal ones if None). `calibration` is a stream of unaugmented input batches (or tuples
    that start with one): matching by activations reads it, and the layers of the fused network are fitted to the
    ensemble on it (`refit`, with settings of its own if a `Refit` is given). With `refit=False` only statistics are
    corrected on it: batch norms recalibrated or, without batch norm, layers repaired. Without it, running statistics
    are merged like every other parameter. `calibration_role` limits it to matching, or to what follows (statistics).

    `class_names` names each member's outputs (members may hold their names themselves, in an attribute `class_names`).
    Where they differ, the fused network has those of `class_union`: a class that one member knows gets that member's
    logit, a class that several know the weighted mean of theirs. The result then holds the names in that attribute.

    A `structured` result stores and computes its blocks without zeros, in the layers where that is faster on `example`.

    Scales of units on which a member's function does not depend are fixed first, so the result does not depend on them.

    Raises ValueError for members of different architectures, NaN in weights, or weights that do not sum to 1.
    """
    shares = checked_weights(weights, len(members))
    axes, class_names = trace(members[0], example), names_of(members) if class_names is None else class_names
    check_members(members, axes, same_outputs=class_names is None)
    heads = class_couplings(axes, [member.state_dict() for member in members], class_names)
    batches = checked_batches(calibration, axes)
    to_match, to_fit = batches_for(calibration_role, batches, method.needs_activations)
    if method.fixes_gauge:
        members = [balanced(m, axes, example, compared(heads, k)) for k, m in enumerate(members)]
    couplings = _matched(members, axes, method.prepared(members[0], example), heads, to_match)
    fused = merge(members, axes, couplings, shares)
    if to_fit is not None:
        how = Refit() if refit is True else refit or None
        fused = calibrated(fused, members, axes, couplings, shares, to_fit, how)
    if structured:
        fused = with_blocks(fused, axes, couplings, example)
    run_once(fused, example)
    if class_names is not None:
        fused.class_names = class_union(class_names)  # type: ignore[assignment]
    return fused


def _matched(
    members: Sequence[nn.Module],
    axes: Axes,
    method: Method,
    heads: dict[str, Coupling],
    batches: Iterable[Any] | None,
) -> dict[str, Coupling]:
    """The couplings of all hidden groups, and those of the heads."""
    activations = None
    if method.needs_activations and batches is not None:
        activations = activation_cost(members, axes, batches, within=method.needs_gram)
        if method.needs_influence:
            activations.influence = influences(members, axes, batches)
    states: Sequence[Mapping[str, Tensor]] = [member.state_dict() for member in members]
    if heads:
        states = aligned(axes, [axes.read(state) for state in states], heads)
    return method(axes, states, activations).couplings() | heads


def calibrated(
    fused: nn.Module,
    members: Sequence[nn.Module],
    axes: Axes,
    couplings: Mapping[str, Coupling],
    weights: Sequence[float],
    batches: Iterable[Any],
    how: Refit | None,
) -> nn.Module:
    """A copy of `fused` whose layers are fitted to the ensemble on `batches`, structural zeros kept.

    With None only its statistics are corrected: batch norms recalibrated or, without batch norm, layers repaired.
    """
    if how is None and batch_norms(fused):
        return recalibrate(fused, batches, _isolated(axes, couplings))
    maps = maps_of(axes, [member.state_dict() for member in members], couplings, weights)
    if how is None:
        return repair(fused, members, axes, maps, batches)
    return fit_layers(fused, members, axes, maps, batches, how=how, support=support(axes, couplings, fused))


def _isolated(axes: Axes, couplings: Mapping[str, Coupling]) -> dict[str, Tensor]:
    """Path of each batch norm -> (units,) bool: units that only one member has, whose statistics stay that member's."""
    alone = {group: coupling.contains().sum(0) == 1 for group, coupling in couplings.items()}
    result = {}
    for name, parts in axes.join_masks(axes.means, alone).items():
        result[name.rpartition(".")[0]] = parts
    return result


def activation_cost(
    members: Sequence[nn.Module], axes: Axes, batches: Iterable[Any], *, within: bool = False
) -> ActivationCost:
    """Distances between all members' units on the same inputs, and the products `within` members on request."""
    cost = ActivationCost(len(members), within)
    where = [sites(member, axes) for member in members]
    for batch in batches:
        x = inputs_of(batch)
        cost.update([as_rows(capture(m, w, x)) for m, w in zip(members, where, strict=True)])
    return cost
