"""Rules of operations that treat entries one by one, or that reduce and mix entries along some axes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from amalgam.tasks.tracing.flow import Carriers, Flow, aligned, connected, moved
from amalgam.tasks.tracing.nodes import arguments_of, operation_of, rank_of, refusal, shape_of, sizes_of, tensors_of
from amalgam.tasks.tracing.rules.layers import matrix_product
from amalgam.tasks.tracing.units import ZERO, Carrier

LINEAR = ("add", "sub", "neg", "clone", "to", "contiguous", "dropout", "alias", "detach")
BROADCASTING = ("add", "sub", "mul", "div")
"""What may combine a value per unit with one that each member has once."""


def pointwise(flow: Flow, node: Node) -> Carriers:
    """Any elementwise operation: entries that meet belong to one unit."""
    operands = [expanded(flow, node, tensor) for tensor in tensors_of(node)]
    result = joined(flow, node, operands)
    is_product = operation_of(node) in ("mul", "div") and len(operands) > 1
    is_scaling = operation_of(node) in ("mul", "div") and len(operands) == 1
    if is_product or not (is_scaling or operation_of(node) in LINEAR):
        flow.nonlinear += [(carrier.ids, node) for carrier in result]
    return result


def joined(flow: Flow, node: Node, operands: Sequence[Node]) -> Carriers:
    """Tie the carriers of operands that are broadcast against each other; the result has them all."""
    rank = rank_of(node)
    each = [_broadcast(flow, node, tensor) for tensor in operands]
    result = []
    for together in connected([c for carriers in each for c in carriers]):
        axes = tuple(sorted({axis for carrier in together for axis in carrier.axes}))
        plain = [c for c in together if not _is_per_member(flow, c)]
        if plain and len(plain) < len(together):
            if operation_of(node) not in BROADCASTING:
                raise refusal(node, "it mixes the units of a group")
            together = plain
        ids = tied(flow, together).ids
        for tensor, carriers in zip(operands, each, strict=True):
            lengths = [(shape_of(tensor)[a - rank], ids.shape[a]) for a in axes if rank_of(tensor) + a >= rank]
            # A parameter of length 1 beside one shared position says nothing about units.
            varies = any(length > 1 or mine == 1 for length, mine in lengths)
            if varies and not any(set(c.axes) & set(axes) for c in carriers):
                flow.fix_beside(ids, tensor)
        result.append(Carrier(axes, ids))
    return result


def _broadcast(flow: Flow, node: Node, tensor: Node) -> Carriers:
    """An operand's carriers at the result's rank; what a parameter repeats along an axis is no unit there."""
    found = [aligned(c, rank_of(node)) for c in flow.of(tensor)]
    repeated = {axis for axis, length in enumerate(shape_of(node)) if length > 1}
    return [c for c in found if not (flow.is_static(tensor) and c.ids.size == 1 and set(c.axes) & repeated)]


def expanded(flow: Flow, node: Node, tensor: Node) -> Node:
    """A learned scalar beside units (a temperature, one slope for all) becomes one per unit: members' values differ."""
    if not flow.is_static(tensor) or flow.is_static(node) or not _is_learned(flow, tensor):
        return tensor
    rank, shape = rank_of(node), shape_of(node)
    others = [other for other in tensors_of(node) if other is not tensor]
    free = {a + rank - rank_of(other) for other in others for a in flow.free_axes(other)}
    own = (1,) * (rank - rank_of(tensor)) + shape_of(tensor)
    target = [shape[a] if a in free and own[a] == 1 else own[a] for a in range(rank)]
    return tensor if target == list(own) or not free else widened(flow, node, tensor, target)


def widened(flow: Flow, node: Node, tensor: Node, target: list[int]) -> Node:
    """A parameter repeated to a shape, in the program itself: a parameter of its own from here on."""
    graph = flow.program.graph
    with graph.inserting_before(node):
        wide = graph.call_function(torch.ops.aten.expand.default, (tensor, target))
    wide.meta = {**node.meta, "val": tensor.meta["val"].expand(target)}
    node.replace_input_with(tensor, wide)
    flow.program.note(wide)
    flow.carriers[wide] = flow.own(wide)
    return wide


def prelu(flow: Flow, node: Node) -> Carriers:
    """A slope per channel, or one for all (which becomes one per unit)."""
    arguments = arguments_of(node)
    x, slope = arguments.get("self", arguments.get("input")), arguments["weight"]
    channel = min(1, rank_of(x) - 1)
    if shape_of(slope) == (1,) and shape_of(x)[channel] > 1:
        slope = widened(flow, node, slope, [shape_of(x)[channel]])
    flow.units.tie(flow.line(x, channel), flow.line(slope, 0))
    flow.nonlinear += [(carrier.ids, node) for carrier in flow.of(x)]
    return flow.of(x)


def reduction(flow: Flow, node: Node) -> Carriers:
    """Mean, sum or norm: over positions it keeps units; over units each member gets a value of its own."""
    arguments = arguments_of(node)
    x, dims = arguments["self"], arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    over = {d % rank_of(x) for d in dims} if dims else set(range(rank_of(x)))
    flow.nonlinear += [(c.ids, node) for c in flow.of(x)] if operation_of(node) not in ("mean", "sum") else []
    free = [axis for axis in over if flow.is_free(x, axis)]
    if free:
        return _per_member(flow, node, x, free, over)
    kept = {axis: place for place, axis in enumerate(a for a in range(rank_of(x)) if a not in over)}
    axes = {a: a for a in range(rank_of(x)) if a not in over} if arguments.get("keepdim") else kept
    return [c for carrier in flow.of(x) if (c := moved(carrier, axes, rank_of(node)))]


def _per_member(flow: Flow, node: Node, x: Node, free: list[int], over: set[int]) -> Carriers:
    if not arguments_of(node).get("keepdim") or len(free) > 1 or operation_of(node) not in REDUCED_PER_MEMBER:
        raise refusal(node, "it mixes the units of a group")
    number = flow.units.new(1)
    flow.per_member.add(int(number[0]))
    others = [c for c in flow.of(x) if free[0] not in c.axes and not set(c.axes) & over]
    return [*others, Carrier((free[0],), number.reshape((1,) * rank_of(node)))]


REDUCED_PER_MEMBER = ("mean", "sum", "linalg_vector_norm")


def along_positions(flow: Flow, node: Node) -> Carriers:
    """Softmax and similar: entries along one axis read each other, so units may not lie there."""
    arguments = arguments_of(node)
    x = arguments.get("self", arguments.get("input"))
    if flow.is_free(x, arguments["dim"]):
        last = " (if it ends the network, return plain logits)" if "softmax" in operation_of(node) else ""
        raise refusal(node, f"it mixes the units of a group{last}")
    flow.nonlinear += [(c.ids, node) for c in flow.of(x)]
    return flow.of(x)


def per_channel(flow: Flow, node: Node) -> Carriers | list[Carriers]:
    """Pooling, interpolation: positions change, units pass; adaptive max pooling gives positions, too."""
    x, value = tensors_of(node)[0], node.meta["val"]
    result = value if isinstance(value, Tensor) else value[0]
    for axis, (before, after) in enumerate(zip(shape_of(x), sizes_of(result), strict=True)):
        if before != after and flow.is_free(x, axis):
            raise refusal(node, "it changes the number of units")
    if any(flow.is_free(x, axis) for axis in range(2, rank_of(x))) and "dropout" not in operation_of(node):
        raise refusal(node, "units lie along an axis that it treats as positions")
    if "max" in operation_of(node):
        flow.nonlinear += [(c.ids, node) for c in flow.of(x)]
    return flow.of(x) if isinstance(value, Tensor) else [flow.of(x) for _ in value]


def product(flow: Flow, node: Node) -> Carriers:
    """A product of matrices: with a parameter, a layer; of two values, one unit per matrix (an attention head)."""
    one, two = tensors_of(node)[0], tensors_of(node)[-1]
    if flow.is_static(two) and rank_of(two) == 2:
        return matrix_product(flow, node, one, two)
    if rank_of(one) < 2 or rank_of(two) < 2:
        raise refusal(node, "products with vectors are not supported")
    rank = rank_of(node)
    # Entries along the axis that is summed (the width of a head) become parts of one unit.
    rows, columns = collapsed(flow, one, -1), collapsed(flow, two, -2)
    if any(set(c.axes) & {rank - 2, rank - 1} and flow.units.is_free(c.ids) for c in _outer(rows, columns, rank)):
        return _heads(flow, node, rows, columns, rank)
    return [c for c in _tie_batch(flow, rows + columns, rank) if set(c.axes) <= set(range(rank - 2))]


def attention(flow: Flow, node: Node) -> Carriers:
    """Scaled dot products of (..., heads, tokens, entries): a head is one unit of query, key, value and result."""
    arguments = arguments_of(node)
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    rank = rank_of(node)
    found = [c for v in (query, key, value) for c in collapsed(flow, v, -1)]
    if arguments.get("enable_gqa"):
        # Consecutive query heads share one head of keys and values: all of them are parts of that head's unit.
        found = [_repeated(c, rank - 3, shape_of(node)[rank - 3]) for c in found]
    if arguments.get("attn_mask") is not None:
        mask = arguments["attn_mask"]
        flow.fix(mask, -1, -2)
        found += [aligned(c, rank) for c in flow.of(mask) if not set(c.axes) & {rank_of(mask) - 1, rank_of(mask) - 2}]
    result = _tie_batch(flow, found, rank)
    flow.nonlinear += [(c.ids, node) for c in result]
    return result


def _repeated(carrier: Carrier, axis: int, length: int) -> Carrier:
    """The carrier with each of its entries along an axis repeated, so that there are `length`."""
    own = carrier.ids.shape[axis]
    return carrier if own in (1, length) else Carrier(carrier.axes, carrier.ids.repeat(length // own, axis))


def collapsed(flow: Flow, node: Node, axis: int) -> Carriers:
    """The carriers of a value whose entries along an axis become parts of one unit."""
    axis %= rank_of(node)
    result = []
    for carrier in flow.of(node):
        if axis not in carrier.axes or not flow.units.is_free(carrier.ids):
            result += [carrier] * (axis not in carrier.axes)
            continue
        first = carrier.ids.take([0], axis)
        flow.units.tie(carrier.ids, first)
        result.append(Carrier(tuple(a for a in carrier.axes if a != axis) or (axis,), first))
    return result


def _heads(flow: Flow, node: Node, rows: Carriers, columns: Carriers, rank: int) -> Carriers:
    """The result keeps entries along its last two axes (values of a head): they are parts of the head's unit."""
    outer = _outer(rows, columns, rank)
    batch = [c for c in rows + columns if not set(c.axes) & {rank - 2, rank - 1}]
    for carrier in outer:
        if not set(carrier.axes) - {rank - 2, rank - 1}:
            raise refusal(node, "it mixes the units of a group")
    return _tie_batch(flow, batch + outer, rank)


def _outer(rows: Carriers, columns: Carriers, rank: int) -> Carriers:
    kept_rows = [c for c in rows if rank - 2 in c.axes]
    return kept_rows + [c for c in columns if rank - 1 in c.axes]


def _tie_batch(flow: Flow, carriers: Carriers, rank: int) -> Carriers:
    """Tie whatever shares batch axes (heads); a carrier along the last axis alone stands for a single head."""
    free = [c for c in carriers if flow.units.is_free(c.ids)]
    single = [c for c in free if set(c.axes) <= {rank - 1, rank - 2}]
    several = [c for c in free if c not in single]
    if single and not several:
        ids = tied(flow, single).ids
        return [Carrier((rank - 1,), ids.reshape((1,) * rank))] if ids.size == 1 else single[:1]
    return [tied(flow, together) for together in connected(several + single)]


def tied(flow: Flow, carriers: Carriers) -> Carrier:
    """One carrier along the axes of all, whose entries are of one unit wherever they meet."""
    first, *others = carriers
    for other in others:
        flow.units.tie(first.ids, other.ids)
    shape = np.broadcast_shapes(*(c.ids.shape for c in carriers))
    # Where some are zero, the others say whose the entry is.
    largest = np.broadcast_to(first.ids, shape)
    for other in others:
        largest = np.where(largest == ZERO, np.broadcast_to(other.ids, shape), largest)
    return Carrier(tuple(sorted({axis for carrier in carriers for axis in carrier.axes})), largest)


def _is_per_member(flow: Flow, carrier: Carrier) -> bool:
    return bool(flow.per_member) and bool(np.isin(flow.units.find(carrier.ids), list(flow.per_member)).all())


def _is_learned(flow: Flow, node: Node) -> bool:
    """Whether a static value is made of parameters, which may differ between members."""
    if node in flow.program.parameters:
        return flow.program.parameters[node] not in flow.program.buffers | flow.program.outside
    return any(_is_learned(flow, source) for source in node.all_input_nodes)
