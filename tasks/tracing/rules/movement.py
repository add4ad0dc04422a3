"""Rules of operations that only move entries: they are run on the numbers of the units themselves."""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from amalgam.tasks.tracing.flow import Carriers, Flow, axis_carrier, connected
from amalgam.tasks.tracing.nodes import (
    arguments_of,
    concrete,
    is_symbolic,
    operation_of,
    rank_of,
    refusal,
    shape_of,
    sizes_of,
    tensors_of,
)
from amalgam.tasks.tracing.rules.pointwise import joined, tied
from amalgam.tasks.tracing.units import FIXED, ZERO, Carrier


def moved_entries(flow: Flow, node: Node) -> Carriers | list[Carriers]:
    """Reshape, permute, slice, split, roll, flip, repeat, ...: entries keep their units."""
    x = tensors_of(node)[0]
    found = [_moved(flow, node, x, carrier) for carrier in flow.of(x)]
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return [part for parts in found if (part := parts[0])]
    return [[part for parts in found if (part := parts[i])] for i in range(len(value))]


def expand(flow: Flow, node: Node) -> Carriers:
    """A value repeated along axes of length 1."""
    x = tensors_of(node)[0]
    shift = rank_of(node) - rank_of(x)
    flow.fix(x, *(a for a in range(rank_of(x)) if is_symbolic(node, a + shift) and flow.is_static(x)))
    return [Carrier(tuple(a + shift for a in c.axes), c.ids.reshape((1,) * shift + c.ids.shape)) for c in flow.of(x)]


def concatenation(flow: Flow, node: Node) -> Carriers:
    """Along units, their lists are joined; along positions, units must agree."""
    arguments = arguments_of(node)
    tensors, axis = arguments["tensors"], arguments["dim"] % rank_of(node)
    if any(not flow.is_static(t) and not flow.is_free(t, axis) for t in tensors):
        for tensor in filter(flow.is_static, map(_source, tensors)):
            flow.fix(tensor, axis)
    if not any(flow.is_free(tensor, axis) for tensor in tensors):
        return joined(flow, node, [t for t in tensors if shape_of(t) != (0,)])
    others = [c for t in tensors for c in flow.of(t) if axis not in c.axes]
    result = [tied(flow, together) for together in connected(others)]
    lines = [flow.line(tensor, axis) for tensor in tensors]
    shape = [-1 if a == axis else 1 for a in range(rank_of(node))]
    return [*result, Carrier((axis,), np.concatenate(lines).reshape(shape))]


def _source(tensor: Node) -> Node:
    """The value itself, or the one that it merely repeats or converts (a class token for every image)."""
    while operation_of(tensor) in ("expand", "to", "alias", "contiguous") and isinstance(tensor.args[0], Node):
        tensor = tensor.args[0]
    return tensor


def padding(flow: Flow, node: Node) -> Carriers:
    """Padded positions are shared; padded channels are zeros that belong to no unit."""
    arguments = arguments_of(node)
    x, pads = arguments["self"], arguments["pad"]
    rank, value = rank_of(x), arguments.get("value") or 0
    padded = {rank - 1 - i // 2 for i, amount in enumerate(pads) if amount}
    result = []
    for carrier in flow.of(x):
        if not padded & set(carrier.axes) or not flow.units.is_free(carrier.ids):
            result.append(carrier)
            continue
        if len(carrier.axes) > 1 or arguments.get("mode", "constant") != "constant":
            raise refusal(node, "it pads along units by something else than a constant")
        (axis,) = carrier.axes
        before, after = pads[2 * (rank - 1 - axis) : 2 * (rank - 1 - axis) + 2]
        widths = [(before, after) if a == axis else (0, 0) for a in range(rank)]
        result.append(Carrier((axis,), np.pad(carrier.ids, widths, constant_values=FIXED if value else ZERO)))
    return result


def pixel_shuffle(flow: Flow, node: Node) -> Carriers:
    """Consecutive channels become the pixels of one: they are one unit."""
    x, factor = arguments_of(node)["self"], arguments_of(node)["upscale_factor"]
    table = flow.line(x, rank_of(x) - 3).reshape(-1, factor**2)
    flow.units.tie(table, table[:, :1])
    return [axis_carrier(table[:, 0], -3, rank_of(x))]


def item(flow: Flow, node: Node) -> Carriers:
    """One of several results."""
    return flow.parts[node.args[0]][node.args[1]]  # type: ignore[index]


def factory(flow: Flow, node: Node) -> Carriers:
    """One number everywhere, made on the spot: it may meet units, or start a state over them, so its axes are free."""
    name = operation_of(node)
    if name.endswith("_like"):
        return flow.of(tensors_of(node)[0])
    if name in FILLED and isinstance(node.meta.get("val"), Tensor):
        return [c for a, c in enumerate(flow.own(node)) if isinstance(node.meta["val"].shape[a], int) and a > 0]
    return []


FILLED = ("zeros", "new_zeros", "ones", "new_ones", "full", "new_full")


def run_on(node: Node, numbers: np.ndarray) -> list[np.ndarray]:
    """The operation run on whole numbers in place of its first tensor."""
    x = tensors_of(node)[0]
    values = concrete(list(node.args), {x: torch.from_numpy(np.ascontiguousarray(numbers))})
    keywords = {name: concrete(value, {}) for name, value in node.kwargs.items()}
    with contextlib.suppress(KeyError):
        keywords.pop("memory_format")
    result: Any = node.target(*values, **keywords)  # type: ignore[operator]
    return [result.numpy()] if isinstance(result, Tensor) else [part.numpy() for part in result]


def _moved(flow: Flow, node: Node, x: Node, carrier: Carrier) -> list[Carrier | None]:
    # Numbers are resolved first: entries that were tied meanwhile no longer vary.
    ids = flow.units.find(carrier.ids)
    results = run_on(node, np.broadcast_to(ids, shape_of(x)))
    value = node.meta["val"]
    shapes = [sizes_of(value)] if isinstance(value, Tensor) else [sizes_of(v) for v in value]
    assert [r.shape for r in results] == shapes
    return [_slim(flow, result, carrier) for result in results]


def _slim(flow: Flow, ids: np.ndarray, carrier: Carrier) -> Carrier | None:
    """A carrier with length 1 on every axis along which its numbers do not vary."""
    axes = [a for a in range(ids.ndim) if ids.shape[a] > 1 and (ids != ids.take([0], a)).any()]
    for axis in set(range(ids.ndim)) - set(axes):
        ids = ids.take([0], axis)
    if not axes and not flow.units.is_free(ids):
        return None
    return Carrier(tuple(axes) or _lonely(ids, carrier), ids)


def _lonely(ids: np.ndarray, carrier: Carrier) -> tuple[int, ...]:
    """The axis of a single unit, which its entries do not show."""
    shift = min(carrier.axes[0], ids.ndim - 1) if carrier.axes else ids.ndim - 1
    return (max(shift, 0),) if ids.ndim else ()
