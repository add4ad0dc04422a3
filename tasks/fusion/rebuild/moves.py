"""Operations that move entries, at other widths: the same call where that is enough, picked entries where not."""

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from amalgam.tasks.fusion.rebuild.network import Writer
from amalgam.tasks.tracing.layout import Layout, Segment
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
from amalgam.tasks.tracing.rules.movement import run_on

aten = torch.ops.aten

RESHAPES = ("flatten", "view", "reshape", "_unsafe_view", "unflatten", "view_as", "reshape_as")
PERMUTATIONS = ("permute", "transpose", "t", "movedim", "swapaxes", "squeeze", "unsqueeze", "numpy_T", "mT")


def write_move(writer: Writer, node: Node) -> Any:
    """Reshape, permute, slice, split, repeat, ... of one value."""
    x = tensors_of(node)[0]
    before = writer.traced.layouts(x)
    if not is_tensor(node):
        return None if before is None or _moves_units(node, before) else writer.again(node)
    after = writer.traced.layouts(node)
    if after is None:
        return None
    if before is not None and x in writer.new:
        if operation_of(node) in RESHAPES:
            return _write_reshape(writer, node, after)
        if operation_of(node) in PERMUTATIONS or not _moves_units(node, before):
            return writer.again(node)
    return _write_selection(writer, node, after)


def write_item(writer: Writer, node: Node) -> Any:
    """One of several results, or its entries."""
    if node.args[0] in writer.new or not is_tensor(node):
        return writer.again(node)
    after = writer.traced.layouts(node)
    return None if after is None else _write_selection(writer, node, after)


def write_concatenation(writer: Writer, node: Node) -> Any:
    """Values side by side, then brought into order if a group does not lie in one piece."""
    arguments = arguments_of(node)
    axis, tensors = arguments["dim"] % rank_of(node), arguments["tensors"]
    made, layout = writer.again(node), writer.layouts(node).get(axis)
    if layout is None:
        return made
    parts, start = [], 0
    for tensor in tensors:
        own = writer.layouts(tensor).get(axis) or Layout.shared(shape_of(tensor)[axis])
        parts += [Segment(s.group, s.entries + start) for s in own.segments]
        start += len(own.order)
    side_by_side = Layout(tuple(parts))
    if np.array_equal(side_by_side.order, layout.order):
        return made
    return writer.gathered(node, made, (axis, rank_of(node)), layout, side_by_side, np.arange(start))


def _write_reshape(writer: Writer, node: Node, after: dict[int, Layout]) -> Node:
    """A view whose lengths along units are the new ones."""
    x = tensors_of(node)[0]
    if operation_of(node) == "flatten" or not (after or writer.layouts(x)):
        return writer.again(node)
    sizes_before = arguments_of(node).get("size") or arguments_of(node).get("shape")
    result: list[Any] = [
        -1 if is_symbolic(node, a) else after[a].width(writer.widths) if a in after else size
        for a, size in enumerate(shape_of(node))
    ]
    if sum(size == -1 for size in result) > 1:
        if sizes_before is None or len(sizes_before) != len(result):
            raise refusal(node, "several lengths of its result depend on the batch")
        result = [
            writer.mapped(sizes_before[a]) if size == -1 and a not in after else size for a, size in enumerate(result)
        ]
    return writer.call(aten.reshape.default, writer.new[x], result)


def _write_selection(writer: Writer, node: Node, after: dict[int, Layout]) -> Node:
    """Entries picked from the last value upstream that was written: all moves since then at once."""
    chain = [node]
    while (source := _source(chain[-1])) not in writer.new or writer.traced.layouts(source) is None:
        chain.append(source)
    before = writer.layouts(source)
    if len(before) != 1 or len(after) != 1:
        raise refusal(node, "it moves units of several groups at once")
    ((old, source_layout),), ((new, layout),) = before.items(), after.items()
    rest = [[n for a, n in enumerate(shape_of(v)) if a != axis] for v, axis in ((source, old), (node, new))]
    if rest[0] != rest[1]:
        raise refusal(node, "it moves units and other entries at once")
    shape = shape_of(source)
    # All moves are run on positions along the old axis: what lies along the new one says where each entry came from.
    numbers = np.arange(shape[old]).reshape([-1 if a == old else 1 for a in range(len(shape))])
    moved = np.broadcast_to(numbers, shape)
    for step in reversed(chain):
        moved = _step(step, moved)
    positions = np.moveaxis(moved, new, 0).reshape(moved.shape[new], -1)[:, 0]
    value = writer.gathered(node, writer.new[source], (old, len(shape)), layout, source_layout, positions)
    return value if old == new else writer.call(aten.movedim.int, value, old, new)


def _source(node: Node) -> Node:
    """What a move reads; the several results of a split are passed over."""
    first = node.args[0]
    assert isinstance(first, Node)
    return first if is_tensor(first) else tensors_of(first)[0]


def _step(node: Node, numbers: np.ndarray) -> np.ndarray:
    first = node.args[0]
    if operation_of(node) == "getitem":
        assert isinstance(first, Node)
        return run_on(first, numbers)[node.args[1]]  # type: ignore[index]
    return run_on(node, numbers)[0]


def _moves_units(node: Node, before: dict[int, Layout]) -> bool:
    """Whether entries along an axis of units are moved, found by running the operation on their positions."""
    x = tensors_of(node)[0]
    for axis in before:
        numbers = np.arange(shape_of(x)[axis]).reshape([-1 if a == axis else 1 for a in range(rank_of(x))])
        for result in run_on(node, np.broadcast_to(numbers, shape_of(x))):
            if not np.array_equal(np.unique(result), numbers.ravel()) or result.size % numbers.size:
                return True
            varying = [a for a in range(result.ndim) if (result != result.take([0], a)).any()]
            if len(varying) > 1 or not all(np.array_equal(_line(result, a), numbers.ravel()) for a in varying):
                return True
    return False


def _line(values: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0]
