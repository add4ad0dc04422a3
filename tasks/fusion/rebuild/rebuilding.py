"""How a network is rebuilt: its own class with wider layers where that is exact, else its recorded operations.

The choice is made once per traced network, by trial: a random network of its shape is fused with another one at
random, and the result must be the first network when that has all the weight, and the ensemble when no units are
merged. A network that fails both ways is refused, so that no result is silently wrong.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.resizing import resize
from amalgam.tasks.fusion.rebuild.tensors import merged_tensors, state_of
from amalgam.tasks.fusion.rebuild.writing import write
from amalgam.tasks.fusion.unit_map import UnitMaps, maps_of
from amalgam.tasks.tracing.axes import Axes, Blocks
from amalgam.tasks.tracing.running import tensors_in

Tensors = Mapping[str, Tensor]
Rebuild = Callable[[nn.Module, Axes, Tensors, UnitMaps], nn.Module]

TOLERANCE = 1e-6  # relative, in double precision: far above rounding, far below the error of a wrong group
_CHOSEN = "rebuild"


def rebuilt(module: nn.Module, axes: Axes, tensors: Tensors, maps: UnitMaps) -> nn.Module:
    """A network with the operations of `module` and the given parameters, as wide as they are.

    Raises ValueError, naming module path and operation where known, if neither way gives an exact network.
    """
    return _chosen(module, axes)(module, axes, tensors, maps)


def as_module(module: nn.Module, axes: Axes, tensors: Tensors, maps: UnitMaps) -> nn.Module:
    """The module's own class, its layers as wide as the tensors say."""
    return resize(module, tensors)


def as_operations(module: nn.Module, axes: Axes, tensors: Tensors, maps: UnitMaps) -> nn.Module:
    """The recorded operations at the new widths."""
    assert axes.traced
    return write(axes.traced, maps, tensors)


def as_recorded(member: nn.Module, axes: Axes) -> fx.GraphModule:
    """The traced operations with a member's parameters, which do not depend on the code of its class any more."""
    assert axes.traced
    blocks = axes.read(state_of(member, axes))
    sizes = axes.sizes(blocks)
    alone = {group: Coupling((torch.arange(sizes[group]),)) for group in axes.groups}
    maps = maps_of(axes, [blocks], alone, (1.0,))
    return write(axes.traced, maps, merged_tensors(axes, [blocks], maps))


def with_own_weights(member: nn.Module, axes: Axes) -> nn.Module:
    """The member, or its recorded operations if it computes weights from other parameters (weight norm, masks)."""
    computed = axes.of.keys() - axes.parts.keys() - member.state_dict().keys()
    return as_recorded(member, axes) if computed else member


def _chosen(module: nn.Module, axes: Axes) -> Rebuild:
    if axes.traced is None:
        return as_module
    key = (_CHOSEN, frozenset(axes.of))
    chosen = axes.traced.memo.get(key)
    if chosen is None:
        chosen = axes.traced.memo[key] = _exact_rebuild(module, axes)
    return chosen


def _exact_rebuild(module: nn.Module, axes: Axes) -> Rebuild:
    trial = _Trial(module, axes)
    # A program of torch.export is written anew: its layers become modules, whose statistics can be measured.
    is_program = isinstance(module, fx.GraphModule) and isinstance(module.graph._codegen, fx.graph._PyTreeCodeGen)
    own_names = not is_program and set(module.state_dict()) == set(axes.of) - set(axes.parts) | set(axes.layouts)
    if own_names and trial.error_of(as_module) is None:
        return as_module
    error = trial.error_of(as_operations)
    if error is None:
        return as_operations
    raise ValueError(f"{type(module).__name__} cannot be rebuilt at other widths: {error}")


class _Trial:
    """Two random networks of the module's shape, in double precision, and what fusing them must give."""

    def __init__(self, module: nn.Module, axes: Axes) -> None:
        assert axes.traced
        self.axes, self.module = axes, module
        state, generator = state_of(module, axes), torch.Generator().manual_seed(0)
        self.states = [axes.read(_random(state, axes, generator)) for _ in range(2)]
        self.inputs = tuple(_double(value) for value in axes.traced.program.example)
        self.sizes = axes.sizes(self.states[0])
        self.generator = generator

    def error_of(self, rebuild: Rebuild) -> str | None:
        """Why rebuilding in this way is not exact; None if it is."""
        try:
            # All weight on one member must give it, however units are coupled; uncoupled, their weighted sum.
            alone = [self._fused(rebuild, [state], 0.0, (1.0,)) for state in self.states]
            wanted = {(1.0, 0.0): alone[0], (0.3, 0.7): [0.3 * a + 0.7 * b for a, b in zip(*alone, strict=True)]}
            if rebuild is as_module and not self._close(alone[0], self._recorded()):
                return "its class computes something else than its recorded operations"
            for weights, expected in wanted.items():
                found = self._fused(rebuild, self.states, 0.5 if weights[0] == 1 else 1.0, weights)
                if not self._close(found, expected):
                    return "units of a group are not exchangeable" if weights[0] == 1 else "members do not add up"
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
            return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None

    def _recorded(self) -> list[Tensor]:
        return self._fused(as_operations, [self.states[0]], 0.0, (1.0,))

    def _fused(self, rebuild: Rebuild, states: list[Blocks], alpha: float, weights: tuple[float, ...]) -> list[Tensor]:
        couplings = {group: self._random_coupling(self.sizes[group], len(states), alpha) for group in self.axes.groups}
        maps = maps_of(self.axes, states, couplings, weights)
        network = rebuild(self.module, self.axes, merged_tensors(self.axes, states, maps), maps).double().eval()
        with torch.no_grad():
            return tensors_in(network(*self.inputs))

    def _random_coupling(self, size: int, count: int, alpha: float) -> Coupling:
        matched = round((1 - alpha) * size)
        orders = [torch.randperm(size, generator=self.generator)[:matched] for _ in range(count)]
        return Coupling.from_matches(torch.stack(orders), [size] * count)

    def _close(self, found: list[Tensor], expected: list[Tensor]) -> bool:
        return all(
            a.shape == b.shape
            and bool(torch.isfinite(a).all())
            and bool((a - b).norm() <= TOLERANCE * (1e-30 + b.norm()))
            for a, b in zip(found, expected, strict=True)
        )


def _random(state: Tensors, axes: Axes, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors like those of a network, moved at random: special values (zeros, ones) would hide errors."""
    buffers = {name for node, name in axes.traced.program.parameters.items()} if axes.traced else set()
    result = {}
    for name, tensor in state.items():
        value = tensor.double() if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and name in buffers and _is_learned(name, axes):
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
            value = value + noise * (0.3 * value.std() + 0.05 if value.numel() > 1 else 0.1)
        if name in axes.variances:
            value = value.abs() + 0.5
        result[name] = value
    return result


def _is_learned(name: str, axes: Axes) -> bool:
    """Whether values differ between members: parameters, and running statistics."""
    assert axes.traced
    program = axes.traced.program
    return name in axes.means | axes.variances or name not in program.buffers | program.outside


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
