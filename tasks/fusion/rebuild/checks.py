"""What is checked before and after fusing: weights, members, calibration batches, the fused network itself."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from amalgam.tasks.fusion.rebuild.rebuilding import as_recorded
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import inputs_of
from amalgam.tasks.tracing.running import evaluating, tensors_in

CalibrationRole = Literal["both", "matching", "statistics"]
"""What calibration batches serve: matching by activations, correcting the fused network, or both."""
ROLES = get_args(CalibrationRole)
SAME_FUNCTION = 1e-2  # relative; other settings of a layer change more, another order of sums far less


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


def check_members(members: Sequence[nn.Module], axes: Axes, *, same_outputs: bool = True) -> None:
    """Raise ValueError unless all members are finite networks of the traced architecture; hidden widths may differ."""
    layers = [{name: _kind(layer) for name, layer in member.named_modules()} for member in members]
    outputs = []
    for position, member in enumerate(members):
        if layers[position] != layers[0]:
            raise ValueError(f"member {position} is of another architecture than member 0")
        state = member.state_dict()
        try:
            sizes = axes.sizes(state)
            outputs.append([sizes[group] for group in axes.heads])
        except ValueError as error:
            raise ValueError(f"member {position} is of another architecture than member 0: {error}") from error
        types = {str(t.dtype) for t in state.values() if t.is_floating_point()}
        first = {str(t.dtype) for t in members[0].state_dict().values() if t.is_floating_point()}
        if types != first:
            raise ValueError(f"member {position} is {sorted(types)}, member 0 {sorted(first)}: convert one of them")
        bad = [name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise ValueError(f"member {position} has NaN or infinity in {bad[0]}")
    if same_outputs and any(counts != outputs[0] for counts in outputs):
        raise ValueError(
            f"members have different numbers of outputs, {outputs}: name the classes of each (class_names), so that "
            "the fused network gets an output for each of them"
        )
    for position, member in enumerate(members[1:], 1):
        _check_function(member, position, members[0], axes)


def _kind(layer: nn.Module) -> type:
    """The class as written: each graph module and each parametrised layer is of a generated class of its own."""
    return fx.GraphModule if isinstance(layer, fx.GraphModule) else type_before_parametrizations(layer)


def _check_function(member: nn.Module, position: int, first: nn.Module, axes: Axes) -> None:
    """Raise ValueError unless the traced operations, with the member's parameters, compute what the member computes.

    Settings of layers (a slope, a stride, an epsilon) are no parameters: the fused network has those of member 0.
    """
    if axes.traced is None:
        return
    recorded = as_recorded(member, axes)
    with evaluating(member), torch.no_grad():
        found, expected = (tensors_in(network(*axes.traced.program.example)) for network in (recorded, member))
    if any((a - b).norm() > SAME_FUNCTION * b.norm() for a, b in zip(found, expected, strict=True)):
        raise ValueError(
            f"member {position} is of another architecture than member 0: with its parameters, member 0's operations "
            f"compute something else{_setting(member, first)}"
        )


def _setting(member: nn.Module, first: nn.Module) -> str:
    """The first layer whose printed settings differ."""
    others = dict(first.named_modules())
    for path, layer in member.named_modules():
        if path and layer.extra_repr() != others[path].extra_repr():
            kind = type(layer).__name__
            return f" ({path}: {kind}({layer.extra_repr()}) against {kind}({others[path].extra_repr()}))"
    return ""


@dataclass(frozen=True)
class FiniteBatches:
    """Calibration batches that are checked whenever they are read."""

    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        for position, batch in enumerate(self.batches):
            x = inputs_of(batch)
            if x.is_floating_point() and not torch.isfinite(x).all():
                raise ValueError(f"calibration batch {position} has NaN or infinity")
            yield batch


def checked_batches(calibration: Iterable[Any] | None, axes: Axes) -> FiniteBatches | None:
    """The batches as something that can be read again. Raises ValueError for networks of several inputs."""
    if calibration is None:
        return None
    num_inputs = len(axes.traced.program.inputs) if axes.traced else 1
    if num_inputs > 1:
        raise ValueError(f"the network takes {num_inputs} inputs, calibration needs one: pass calibration=None")
    return FiniteBatches(list(calibration) if isinstance(calibration, Iterator) else calibration)


def batches_for(
    role: CalibrationRole, batches: FiniteBatches | None, needs_activations: bool
) -> tuple[FiniteBatches | None, FiniteBatches | None]:
    """The batches that matching reads, and those that the fused network is corrected on.

    Raises ValueError for a role that is not one, or one that has no effect.
    """
    if role not in ROLES:
        raise ValueError(f"calibration_role must be one of {', '.join(ROLES)}, got {role!r}")
    if role == "matching" and batches is not None and not needs_activations:
        raise ValueError("calibration_role='matching' has no effect: this method matches without activations")
    return batches if role != "statistics" else None, batches if role != "matching" else None


def run_once(fused: nn.Module, example: Tensor | tuple[Any, ...]) -> None:
    """Raise ValueError, naming the error, unless the fused network runs on the example."""
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with evaluating(fused), torch.no_grad():
            fused(*inputs)
    except RuntimeError as error:
        raise ValueError(f"the fused network does not run on the example: {error}") from error
