"""Trace any module into `Axes`: run it once under torch.export and let units flow through the recorded operations.

Every parameter axis starts as a label of its own. Each operation says which labels must be the same: a convolution
ties its input channels to what it reads, an addition ties its two summands, a flatten makes one unit many entries.
What is left after all ties are the groups.
"""

import copy

import torch
from torch import Tensor, nn
from torch.fx import Node

from amalgam.tasks.tracing.axes import OUTPUT, Axes, Axis
from amalgam.tasks.tracing.labels import FIXED
from amalgam.tasks.tracing.rules import Flow, refusal


def trace(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Axes:
    """The axes of `module`, found by running it on `example` (a tensor, or the tuple of forward's arguments).

    The module is not changed. Raises ValueError, naming the module path and the operation, where units cannot be
    carried: grouped convolutions, normalisation over units, attention, concatenation, data-dependent control flow.
    """
    arguments = example if isinstance(example, tuple) else (example,)
    copied = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            program = torch.export.export(copied, arguments, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{type(module).__name__} could not be traced with the given example: {reason}") from error
    signature = program.graph_signature
    flow = Flow({**signature.inputs_to_parameters, **signature.inputs_to_buffers})
    for node in program.graph.nodes:
        flow.visit(node)
    names = _group_names(flow, _output(flow, program.graph.output_node()))
    buffers = set(signature.inputs_to_buffers.values())
    of = {name: _named(flow, name, node, names, name in buffers) for node, name in _parameters(flow)}
    groups = tuple(name for name in names.values() if name != OUTPUT)
    return Axes(_with_aliases(of, copied), groups, frozenset(flow.means), frozenset(flow.variances))


def _parameters(flow: Flow) -> list[tuple[Node, str]]:
    return [(node, flow.names[node.name]) for node in flow.dims if node.name in flow.names]


def _output(flow: Flow, node: Node) -> int:
    """The root label of the logits."""
    values = [value for value in node.args[0] if isinstance(value, Node)]  # type: ignore[union-attr]
    if len(values) != 1:
        raise ValueError(f"the network must return one tensor of logits, this one returns {len(values)}")
    free = [flow.labels.root(label) for label in flow.of(values[0]) if flow.labels.is_free(label)]
    if len(free) != 1:
        raise ValueError("the network's output must be logits written by a linear or convolution layer")
    _check_output(flow, free[0])
    return free[0]


def _check_output(flow: Flow, output: int) -> None:
    for label, node in flow.nonlinear:
        if flow.labels.root(label) == output:
            raise refusal(node, "it changes the logits, whose weighted mean is the ensemble; return plain logits")
    for node, name in _parameters(flow):
        for index, label in enumerate(flow.of(node)):
            if (name, index) in flow.reads and flow.labels.root(label) == output:
                raise ValueError(f"parameter {name} reads the network's outputs, which members share and cannot widen")


def _group_names(flow: Flow, output: int) -> dict[int, str]:
    """Root label -> group, named after the first layer that writes it."""
    names = {output: OUTPUT}
    for weight, label, path in flow.writes:
        root = flow.labels.root(label)
        if root == FIXED.root:
            raise ValueError(f"{path}: its units are tied to the network's input, so they cannot be matched")
        names.setdefault(root, weight.removesuffix(".weight"))
    return names


def _named(flow: Flow, name: str, node: Node, names: dict[int, str], is_buffer: bool) -> tuple[Axis | None, ...]:
    axes: list[Axis | None] = []
    for index, label in enumerate(flow.of(node)):
        root, repeat = flow.labels.resolve(label)
        if root in names:
            axes.append(Axis(names[root], (name, index) in flow.reads, repeat))
        elif root == FIXED.root or is_buffer:
            axes.append(None)
        else:
            raise ValueError(f"parameter {name} takes no part in the forward pass, so its units are unknown")
    return tuple(axes)


def _with_aliases(of: dict[str, tuple[Axis | None, ...]], module: nn.Module) -> dict[str, tuple[Axis | None, ...]]:
    """Add state-dict names that share a tensor with a traced one, and buffers that no operation read."""
    state = module.state_dict(keep_vars=True)
    known = {id(state[name]): axes for name, axes in of.items() if name in state}
    return {name: known.get(id(t), (None,) * t.ndim) for name, t in state.items()}
