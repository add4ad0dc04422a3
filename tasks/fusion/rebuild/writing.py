"""A whole network written from recorded operations, at the widths of unit maps."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.utils import _pytree as pytree

from amalgam.tasks.fusion.rebuild.network import Writer
from amalgam.tasks.fusion.rebuild.operations import write_operation
from amalgam.tasks.fusion.unit_map import CLASSES, MEMBERS, UnitMaps
from amalgam.tasks.tracing.groups import Traced
from amalgam.tasks.tracing.layout import Layout
from amalgam.tasks.tracing.nodes import is_tensor

aten = torch.ops.aten


def write(traced: Traced, maps: UnitMaps, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network of the traced operations with parameters `tensors`, at the widths of `maps`.

    Raises ValueError, naming module path and operation, where an operation cannot be written at those widths.
    """
    writer = Writer(traced, maps, tensors)
    names = traced.flow.tensors
    for node in traced.program.graph.nodes:
        if node in traced.program.inputs:
            writer.new[node] = writer.graph.placeholder(node.name)
        elif node in names:
            writer.new[node] = writer.parameter(names[node])
        elif node.op == "call_function" and node not in traced.program.static:
            write_operation(writer, node)
        elif node.op == "output":
            _write_output(writer, node)
    network = fx.GraphModule(writer.root, writer.graph)
    network.graph.eliminate_dead_code()
    network.recompile()
    return network.eval()


def _write_output(writer: Writer, node: Node) -> None:
    values = [_mixed(writer, v) if isinstance(v, Node) else v for v in node.args[0]]  # type: ignore[union-attr]
    writer.graph.output(pytree.tree_unflatten(values, writer.traced.program.output_structure))


def _mixed(writer: Writer, node: Node) -> Node:
    """The weighted mean of outputs that each member has computed apart; any other output as it is."""
    value, grouping = writer.new[node], writer.traced.grouping
    apart = grouping.outputs & grouping.isolated
    for axis, layout in writer.layouts(node).items() if apart and is_tensor(node) else ():
        if {segment.group for segment in layout.segments} <= apart:
            last = writer.call(aten.movedim.int, value, axis, -1)
            table = writer.constant("member_weights", _mixture(writer, layout).to(node.meta["val"].dtype))
            value = writer.call(aten.movedim.int, writer.call(aten.linear.default, last, table), -1, axis)
    return value


def _mixture(writer: Writer, layout: Layout) -> Tensor:
    """(outputs, entries of all members): each member's weight at its entry."""
    blocks = []
    for segment in layout.segments:
        assert segment.group is not None
        # Outputs of all members lie side by side; output i of the network is sum_k weight_k times entry i of member k.
        weights = [m.merge for m in writer.maps.get(CLASSES, writer.maps[MEMBERS])]
        each = [m.unmerge for m in writer.maps[segment.group]]
        places = [w @ one if CLASSES in writer.maps else w * one for w, one in zip(weights, each, strict=True)]
        blocks.append(torch.kron(torch.stack(places).sum(0), torch.eye(segment.repeat).double()))
    return torch.block_diag(*blocks)[np.argsort(layout.order)]
