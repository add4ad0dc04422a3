"""What each member computes over its own units (norms, means), at other widths."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from amalgam.tasks.fusion.rebuild.block_norm import BlockNorm, blocks_of
from amalgam.tasks.fusion.rebuild.network import Writer, path_of
from amalgam.tasks.fusion.unit_map import UnitMap
from amalgam.tasks.tracing.layout import Layout
from amalgam.tasks.tracing.nodes import arguments_of, operation_of, rank_of, refusal, shape_of

aten = torch.ops.aten


def write_norm(writer: Writer, node: Node) -> Node:
    """Layer, group and RMS norm: each member's part on its own."""
    arguments = arguments_of(node)
    x, name = arguments["input"], operation_of(node)
    first = 1 if name == "group_norm" else rank_of(x) - len(arguments["normalized_shape"])
    layouts = {a: layout for a, layout in writer.layouts(x).items() if a >= first and (name != "group_norm" or a == 1)}
    if not layouts:
        return writer.again(node)
    ((axis, layout),) = layouts.items()
    over = [a - rank_of(x) if a < axis else a - rank_of(x) - 1 for a in range(first, rank_of(x)) if a != axis]
    if over and name == "group_norm":
        over = list(range(-rank_of(x) + 1, -1))
    vectors = [_vector(writer, arguments.get(key), axis - first) for key in ("weight", "bias")]
    try:
        blocks = blocks_of(layout, writer.maps, arguments.get("num_groups", 1) if name == "group_norm" else 1)
    except ValueError as error:
        raise refusal(node, str(error)) from error
    norm = BlockNorm(
        blocks,
        vectors[0],
        vectors[1],
        arguments["eps"] or torch.finfo(node.meta["val"].dtype).eps,
        axis - rank_of(x),
        over,
        is_centred=name != "rms_norm",
    )
    own = arguments.get("weight")
    path = (path_of(writer, own, arguments.get("bias")) if own is not None else None) or f"{node.name}_blocks"
    return writer.module(path, norm, writer.new[x])


def write_local_response_norm(writer: Writer, node: Node) -> Node:
    """Each member's channels, read off the fused ones, have their own neighbours; factors are mixed in their shares."""
    arguments = arguments_of(node)
    value, layout = writer.new[arguments["input"]], writer.layouts(arguments["input"]).get(1)
    if layout is None:
        return writer.call(aten.mul.Tensor, value, _factor(writer, arguments, _neighbours(writer, node, value)))
    if not layout.is_plain or layout.segments[0].repeat != 1:
        raise refusal(node, "its channels are not the units of one group")
    maps = writer.maps[str(layout.segments[0].group)]
    windows = [_window(unit_map.unmerge.shape[0], arguments["size"]) for unit_map in maps]
    tables = (torch.cat([m.unmerge for m in maps]), torch.block_diag(*windows), torch.cat([m.merge for m in maps], 1))
    read, window, mixed = (writer.constant("neighbours", t.to(node.meta["val"].dtype)) for t in tables)
    own = writer.call(aten.linear.default, writer.call(aten.movedim.int, value, 1, -1), read)
    mean = writer.call(aten.linear.default, writer.call(aten.square.default, own), window)
    factor = writer.call(aten.linear.default, _factor(writer, arguments, mean), mixed)
    return writer.call(aten.mul.Tensor, value, writer.call(aten.movedim.int, factor, -1, 1))


def _factor(writer: Writer, arguments: dict[str, Any], mean: Node) -> Node:
    """(k + alpha mean)^-beta, by which a response norm multiplies."""
    base = writer.call(aten.add.Scalar, writer.call(aten.mul.Scalar, mean, arguments["alpha"]), arguments["k"])
    return writer.call(aten.pow.Tensor_Scalar, base, -arguments["beta"])


def _window(length: int, size: int) -> Tensor:
    """(channels, channels): weight of each channel in the mean over the neighbours of each."""
    place = torch.arange(length)
    distance = place[None, :] - place[:, None]
    return ((distance >= -(size // 2)) & (distance <= (size - 1) // 2)).double() / size


def _neighbours(writer: Writer, node: Node, value: Node) -> Node:
    """That mean for channels that all members share."""
    size, length = arguments_of(node)["size"], shape_of(node)[1]
    pads = [0, 0] * (rank_of(node) - 2) + [size // 2, (size - 1) // 2]
    padded = writer.call(aten.constant_pad_nd.default, writer.call(aten.square.default, value), pads)
    parts = [writer.call(aten.slice.Tensor, padded, 1, start, start + length) for start in range(size)]
    total = reduce(lambda one, two: writer.call(aten.add.Tensor, one, two), parts)
    return writer.call(aten.div.Scalar, total, size)


def distributed(writer: Writer, node: Node, tensor: Node, value: Any, axis: int, layout: Layout) -> Any:
    """A value that each member has once, for every unit: mixed in the shares of its members."""
    # A divisor is mixed as its reciprocal: x sum_k share_k / d_k, exact where one member has the unit.
    is_divisor = operation_of(node) == "div"
    value = writer.call(aten.reciprocal.default, value) if is_divisor else value
    shares = _by_member(writer, layout, lambda m: m.merge.sum(1))
    table = writer.constant("member_shares", shares.T.contiguous().to(tensor.meta["val"].dtype))
    last = writer.call(aten.movedim.int, value, axis, -1)
    made = writer.call(aten.movedim.int, writer.call(aten.linear.default, last, table), -1, axis)
    return writer.call(aten.reciprocal.default, made) if is_divisor else made


def write_reduction(writer: Writer, node: Node) -> Node:
    """Mean, sum or norm; over units, one for each member."""
    arguments = arguments_of(node)
    x = arguments["self"]
    dims = arguments.get("dim")
    over = [dims] if isinstance(dims, int) else list(dims or range(rank_of(x)))
    layouts = writer.layouts(x)
    reduced = [d % rank_of(x) for d in over if d % rank_of(x) in layouts]
    if not reduced:
        return writer.again(node)
    (axis,), name = reduced, operation_of(node)
    positions = [d for d in over if d % rank_of(x) != axis]
    value = writer.new[x]
    counts = _by_member(writer, layouts[axis], lambda m: m.unmerge.sum(0))
    if name == "mean":
        counts = counts / counts.sum(1, keepdim=True)
    if name == "linalg_vector_norm":
        if arguments["ord"] != 2:
            raise refusal(node, f"a norm of order {arguments['ord']} over units is not supported, only 2")
        value = writer.call(aten.square.default, value)
    table = writer.constant("member_units", counts.to(node.meta["val"].dtype))
    last = writer.call(aten.linear.default, writer.call(aten.movedim.int, value, axis, -1), table)
    made = writer.call(aten.movedim.int, last, -1, axis)
    if positions:
        made = writer.call(aten.mean.dim if name == "mean" else aten.sum.dim_IntList, made, positions, True)
    return writer.call(aten.sqrt.default, made) if name == "linalg_vector_norm" else made


def _by_member(writer: Writer, layout: Layout, of_units: Callable[[UnitMap], Tensor]) -> Tensor:
    """(members, entries): what is a number of each fused unit, at its entries along an axis."""
    parts = []
    for segment in layout.segments:
        assert segment.group is not None
        each = torch.stack([of_units(unit_map) for unit_map in writer.maps[segment.group]])
        parts.append(each.repeat_interleave(segment.repeat, 1))
    return torch.cat(parts, 1)


def _vector(writer: Writer, node: Any, axis: int) -> Tensor | None:
    return None if node is None else writer.tensors[writer.traced.flow.tensors[node]].movedim(axis, -1)
