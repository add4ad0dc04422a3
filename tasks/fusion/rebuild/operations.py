"""How each kind of operation is written at other widths; most are the same call on the new values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from amalgam.tasks.fusion.rebuild.moves import write_concatenation, write_item, write_move
from amalgam.tasks.fusion.rebuild.network import Writer, length_along, path_of
from amalgam.tasks.fusion.rebuild.per_member import distributed, write_local_response_norm, write_norm, write_reduction
from amalgam.tasks.tracing.layout import Layout
from amalgam.tasks.tracing.nodes import (
    arguments_of,
    is_symbolic,
    is_tensor,
    operation_of,
    rank_of,
    refusal,
    shape_of,
    tensors_of,
)
from amalgam.tasks.tracing.rules import table
from amalgam.tasks.tracing.rules.movement import FILLED

aten = torch.ops.aten


def write_operation(writer: Writer, node: Node) -> None:
    """Write one operation, unless nothing reads what it makes."""
    name = operation_of(node)
    if name == "_assert_tensor_metadata":
        return
    if isinstance(node.meta.get("val"), (int, torch.SymInt)):
        writer.new[node] = writer.again(node)
        return
    if name in table.SAME and tensors_of(node)[0] not in writer.new:
        return
    kind = WRITERS.get(name)
    if kind is None and name not in table.RULES:
        kind = write_pointwise
    made = (kind or Writer.again)(writer, node)
    if made is not None:
        writer.new[node] = made


def write_layer(writer: Writer, node: Node) -> Node:
    """Linear and convolution: a module of the same path where the parameters bear its name."""
    arguments = arguments_of(node)
    weight, bias = arguments["weight"], arguments["bias"]
    name = operation_of(node)
    options: dict[str, Any] = {}
    if name != "linear":
        options = {key: arguments[key] for key in ("stride", "padding", "dilation")}
        options["groups"] = _num_groups(writer, node)
    path = path_of(writer, weight, bias)
    if path is None:
        made = writer.again(node)
        if options.get("groups", 1) != 1:
            made.args = (*made.args[:2], bias and writer.new[bias], *(options[k] for k in options))
        return made
    tensor = writer.tensors[f"{path}.weight"]
    outside = {"bias": bias is not None, "device": "meta"}
    kind = LAYERS[name]
    inputs = tensor.shape[1] * options.get("groups", 1)
    lengths = {} if name == "linear" else {"kernel_size": tuple(tensor.shape[2:])}
    layer = kind(inputs, tensor.shape[0], **lengths, **options, **outside)
    return writer.module(path, _filled(writer, path, layer), writer.new[arguments["input"]])


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d,
}  # fmt: skip


def write_transposed(writer: Writer, node: Node) -> Node:
    made = writer.again(node)
    position = 6
    if len(made.args) > position:
        made.args = (*made.args[:position], _num_groups(writer, node), *made.args[position + 1 :])
    return made


def write_batch_norm(writer: Writer, node: Node) -> Node:
    """A batch norm module, whose statistics can be recalibrated."""
    arguments = arguments_of(node)
    weight, bias = arguments["weight"], arguments["bias"]
    path = path_of(writer, weight, bias) if weight is not None else path_of(writer, arguments["running_mean"], None)
    if path is None or arguments["running_mean"] is None:
        return writer.again(node)
    mean = writer.tensors[f"{path}.running_mean"]
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank_of(node)]
    norm = kind(len(mean), arguments["eps"], arguments["momentum"], affine=weight is not None, device="meta")
    return writer.module(path, _filled(writer, path, norm), writer.new[arguments["input"]])


def write_pointwise(writer: Writer, node: Node) -> Node:
    """Elementwise: operands are brought into the result's order; what each member has once is distributed."""
    layouts, rank = writer.layouts(node), rank_of(node)
    operands = {}
    for tensor in tensors_of(node):
        value = writer.new[tensor]
        for axis, layout in layouts.items():
            own = axis - rank + rank_of(tensor)
            if own >= 0:
                value = _matched(writer, node, tensor, value, own, layout)
        operands[tensor] = value
    made = writer.again(node)
    made.args = tuple(_replaced(writer, argument, operands) for argument in node.args)
    return made


def _replaced(writer: Writer, argument: Any, operands: dict[Node, Any]) -> Any:
    if isinstance(argument, Node):
        return operands.get(argument, writer.new.get(argument))
    return writer.mapped(argument)


def _matched(writer: Writer, node: Node, tensor: Node, value: Any, axis: int, layout: Layout) -> Any:
    """An operand along one axis in the order of the result."""
    own = writer.layouts(tensor).get(axis)
    isolated = writer.traced.grouping.isolated
    if own is not None and own.segments[0].group in isolated and layout.segments[0].group not in isolated:
        return distributed(writer, node, tensor, value, axis, layout)
    outputs = writer.traced.grouping.outputs - isolated
    if own is None and {segment.group for segment in layout.segments} <= outputs:
        return value  # the input itself, beside outputs that are as many in every network
    if (own is None and shape_of(tensor)[axis] == 1) or _same(own, layout):
        return value
    length, result = shape_of(tensor)[axis], len(layout.order)
    positions = np.arange(result) if length == result else np.zeros(result, dtype=int)
    source = own or Layout.shared(length)
    shared = {int(e) for s in source.segments if s.group is None for e in s.entries.ravel()}
    units = (e for s in layout.segments if s.group is not None for e in s.entries.ravel())
    positions[[e for e in units if int(positions[e]) in shared]] = -1
    return writer.gathered(node, value, (axis, rank_of(tensor)), layout, source, positions)


def write_expand(writer: Writer, node: Node) -> Any:
    """Lengths along units follow the new network; a value per member stays as it is."""
    x = tensors_of(node)[0]
    layouts, own = writer.layouts(node), writer.layouts(x)
    if any(layout.segments[0].group in writer.traced.grouping.isolated for layout in own.values()):
        return writer.new[x]
    if operation_of(node) == "expand_as":
        return writer.again(node)
    shift = rank_of(node) - rank_of(x)
    if any(shape_of(x)[a - shift] != shape_of(node)[a] for a in layouts if a >= shift):
        raise refusal(node, "it repeats a unit")
    sizes = list(arguments_of(node)["size"])
    made = writer.again(node)
    made.args = (made.args[0], [-1 if a in layouts else writer.mapped(s) for a, s in enumerate(sizes)])
    return made


def write_factory(writer: Writer, node: Node) -> Any:
    """One number everywhere, as long as the units that it meets."""
    if not is_tensor(node) or operation_of(node) not in FILLED:
        return writer.again(node)
    made, place = writer.again(node), 1 if operation_of(node).startswith("new_") else 0
    sizes = [
        length_along(writer, node, a) if not is_symbolic(node, a) else writer.mapped(size)
        for a, size in enumerate(node.args[place])  # type: ignore[arg-type]
    ]
    made.args = (*made.args[:place], sizes, *made.args[place + 1 :])
    return made


def _num_groups(writer: Writer, node: Node) -> int:
    """Groups of a convolution: as many as its input has blocks of the old length."""
    arguments = arguments_of(node)
    x, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    if groups == 1:
        return 1
    channel = rank_of(x) - rank_of(weight) + 1
    return length_along(writer, x, channel) * groups // shape_of(x)[channel]


def _filled(writer: Writer, path: str, layer: nn.Module) -> nn.Module:
    """A layer made without memory, given the fused parameters."""
    for name, old in layer.state_dict(keep_vars=True).items():
        tensor = writer.tensors.get(f"{path}.{name}")
        if tensor is None:
            tensor = torch.zeros(old.shape, dtype=old.dtype)
        setattr(layer, name, nn.Parameter(tensor) if isinstance(old, nn.Parameter) else tensor)
    return layer


def _same(one: Layout | None, two: Layout) -> bool:
    return (
        one is not None
        and [s.group for s in one.segments] == [s.group for s in two.segments]
        and all(np.array_equal(a.entries, b.entries) for a, b in zip(one.segments, two.segments, strict=True))
    )


WRITERS: dict[str, Callable[[Writer, Node], Any]] = {
    **dict.fromkeys(LAYERS, write_layer), "batch_norm": write_batch_norm,
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), write_transposed),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), write_norm),
    **dict.fromkeys(("mean", "sum", "linalg_vector_norm"), write_reduction),
    "local_response_norm": write_local_response_norm,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), write_expand),
    **dict.fromkeys(table.FACTORIES, write_factory), **dict.fromkeys(table.MOVES, write_move),
    "cat": write_concatenation, "concat": write_concatenation, "getitem": write_item, "pixel_unshuffle": Writer.again,
}  # fmt: skip
