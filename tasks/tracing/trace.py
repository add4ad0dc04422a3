"""Trace any module into `Axes`: run it once under torch.export and let units flow through the recorded operations.

Every entry of every parameter starts as a unit of its own. Each operation says which entries must be of one unit: a
convolution ties its input channels to what it reads, an addition ties its two summands, a flatten makes one unit many
entries. Units that then appear in the same places are a group.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from torch import Tensor, nn
from torch.fx import Node

from amalgam.tasks.tracing.axes import Axes, Axis, Part
from amalgam.tasks.tracing.flow import Flow
from amalgam.tasks.tracing.groups import Grouping, Traced, grouping
from amalgam.tasks.tracing.layout import Layout
from amalgam.tasks.tracing.nodes import is_tensor, operation_of, rank_of, refusal
from amalgam.tasks.tracing.program import Program, record
from amalgam.tasks.tracing.rules.table import visit


def trace(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Axes:
    """The axes of `module`, found by running it on `example` (a tensor, or the tuple of forward's arguments).

    The module is not changed. Raises ValueError, naming the module path and the operation, where units cannot be
    carried: operations that mix units, quantisation, control flow that depends on data.
    """
    program = record(module, example)
    traced = walked(program)
    flow, groups = traced.flow, traced.grouping
    table = _Table(flow, groups)
    names = frozenset(module.state_dict())
    table.add_unread(module.state_dict())
    return Axes(
        of=table.of,
        groups=tuple(g for g in groups.names if g not in groups.outputs | groups.isolated),
        means=frozenset(table.blocks_of(flow.means)),
        variances=frozenset(table.blocks_of(flow.variances)),
        outputs=tuple(g for g in groups.names if g in groups.outputs - groups.isolated),
        isolated=groups.isolated,
        layouts=table.layouts,
        parts=table.parts,
        names=names,
        traced=traced,
    )


PROBABILITIES = ("softmax", "log_softmax", "_softmax", "sigmoid", "log_sigmoid", "logit", "tanh")
"""What turns logits into something else than logits."""


def walked(program: Program) -> Traced:
    """What units do in a program. Raises ValueError as `trace` does."""
    try:
        return _walked(Flow(program))
    except ValueError as error:
        # Autoencoders: outputs that are added to the input, weights that read the input and make the outputs.
        program.separate_uses()
        try:
            return _walked(Flow(program, beside_inputs=[]))
        except ValueError:
            raise error from None


def _walked(flow: Flow) -> Traced:
    program = flow.program
    for node in list(program.graph.nodes):
        visit(flow, node)
    outputs = output_nodes(program)
    groups = grouping(flow, outputs)
    _check_outputs(flow, groups, outputs)
    if any(groups.has_outputs(ids) for ids, _ in flow.nonlinear):
        # Each member's outputs are computed apart, and their weighted mean is taken at the very end.
        groups = replace(groups, isolated=groups.isolated | groups.outputs)
    return Traced(flow, groups, outputs)


def output_nodes(program: Program) -> list[Node]:
    """The tensors that the network returns."""
    return [node for node in program.graph.output_node().all_input_nodes if is_tensor(node)]


def _check_outputs(flow: Flow, groups: Grouping, outputs: list[Node]) -> None:
    for ids, node in flow.nonlinear:
        if operation_of(node) in PROBABILITIES and groups.has_outputs(ids):
            raise refusal(node, "it changes the logits, whose weighted mean is the ensemble; return plain logits")
    for node in (node for node in outputs if node not in flow.program.inputs):
        if not any(groups.axes_of(c) or groups.has_outputs(c.ids) for c in flow.of(node)):
            raise refusal(node, "the network's output must be logits written by a linear or convolution layer")
    for node, axis in flow.reads:
        if groups.has_outputs(flow.line(node, axis)):
            name = flow.tensors.get(node, node.name)
            raise ValueError(f"parameter {name} reads the network's outputs, which members share and cannot widen")
    for _, ids, place in flow.writes:
        if (groups.roots[ids] == 0).any():
            raise ValueError(f"{place}: its units are tied to the network's input, so they cannot be matched")


class _Table:
    """Blocks and axes of every tensor that the program reads."""

    def __init__(self, flow: Flow, groups: Grouping) -> None:
        self.flow, self.groups = flow, groups
        self.of: dict[str, tuple[Axis | None, ...]] = {}
        self.layouts: dict[str, tuple[Layout | None, ...]] = {}
        self.parts: dict[str, Part] = {}
        self.blocks: dict[str, list[str]] = {}
        self._tensors = flow.tensors
        for node, name in self._tensors.items():
            self._add(node, name)

    def _add(self, node: Node, name: str) -> None:
        layouts = tuple(self.groups.layout(self.flow.line(node, axis)) for axis in range(rank_of(node)))
        reads = [(node, axis) in self.flow.reads for axis in range(rank_of(node))]
        if all(layout is None or layout.is_plain for layout in layouts):
            self.of[name] = tuple(_axis(layout, 0, read) for layout, read in zip(layouts, reads, strict=True))
            self.blocks[name] = [name]
            return
        self.layouts[name], self.blocks[name] = layouts, []
        for numbers in product(*(range(len(layout.segments)) if layout else [None] for layout in layouts)):
            block = f"{name}[{','.join(':' if n is None else str(n) for n in numbers)}]"
            self.parts[block] = Part(name, numbers)
            self.of[block] = tuple(
                _axis(layout, n or 0, read) for layout, n, read in zip(layouts, numbers, reads, strict=True)
            )
            self.blocks[name].append(block)

    def add_unread(self, state: dict[str, Tensor]) -> None:
        """Tensors of the state dict that no operation reads: other names of read ones, or counters."""
        first = {id(state[name]): axes for name, axes in self.of.items() if name in state}
        raw = {name for node, name in self.flow.program.parameters.items() if node.users}
        for name, tensor in state.items():
            if name not in self.of and name not in self.layouts and name not in raw:
                self.of[name] = first.get(id(tensor), (None,) * tensor.ndim)

    def blocks_of(self, nodes: Iterable[Node]) -> list[str]:
        return [block for node in nodes for block in self.blocks[self._tensors[node]]]


def _axis(layout: Layout | None, number: int, reads: bool) -> Axis | None:
    if layout is None:
        return None
    segment = layout.segments[number]
    return None if segment.group is None else Axis(segment.group, reads, segment.repeat)
