"""Rules of layers: operations with parameters that make, read or rescale units."""

from typing import Any

import numpy as np
from torch.fx import Node

from amalgam.tasks.tracing.flow import Carriers, Flow, axis_carrier
from amalgam.tasks.tracing.nodes import arguments_of, operation_of, place_of, rank_of, refusal, shape_of
from amalgam.tasks.tracing.units import Carrier


def linear(flow: Flow, node: Node) -> Carriers:
    """Weight (out, in), optional bias (out,), over the last axis."""
    arguments = arguments_of(node)
    return _dense(flow, node, arguments["input"], arguments["weight"], arguments["bias"], rank_of(node) - 1)


def convolution(flow: Flow, node: Node) -> Carriers:
    """Weight (out, in / groups, taps...); what one group of channels reads and makes is one unit."""
    arguments = arguments_of(node)
    x, weight, groups = arguments["input"], arguments["weight"], arguments.get("groups", 1)
    channel = rank_of(x) - rank_of(weight) + 1
    flow.fix(weight, *range(2, rank_of(weight)))
    if groups == 1:
        return _dense(flow, node, x, weight, arguments["bias"], channel)
    _parameter(flow, node, weight)
    flow.fix(weight, 1)
    made, read = flow.line(weight, 0), flow.line(x, channel)
    table = np.concatenate([made.reshape(groups, -1), read.reshape(groups, -1)], 1)
    flow.units.tie(table, table[:, :1])
    return _made(flow, node, x, weight, arguments["bias"], made, channel)


def transposed_convolution(flow: Flow, node: Node) -> Carriers:
    """Weight (in, out / groups, taps...)."""
    arguments = arguments_of(node)
    x, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    channel = rank_of(x) - rank_of(weight) + 1
    flow.fix(weight, *range(2, rank_of(weight)))
    _parameter(flow, node, weight)
    if groups == 1:
        flow.reads.add((weight, 0))
        flow.units.tie(flow.line(weight, 0), flow.line(x, channel))
        return _made(flow, node, x, weight, arguments["bias"], flow.line(weight, 1), channel)
    flow.fix(weight, 1)
    read = flow.line(x, channel)
    flow.units.tie(flow.line(weight, 0), read)
    per_group = shape_of(node)[channel] // groups
    table = read.reshape(groups, -1)
    flow.units.tie(table, table[:, :1])
    return _made(flow, node, x, weight, arguments["bias"], np.repeat(table[:, 0], per_group), channel)


def matrix_product(flow: Flow, node: Node, x: Node, weight: Node) -> Carriers:
    """x @ W with a parameter W (in, out): a linear layer written by hand."""
    flow.reads.add((weight, 0))
    flow.units.tie(flow.line(weight, 0), flow.line(x, -1))
    return _made(flow, node, x, weight, None, flow.line(weight, 1), rank_of(node) - 1)


def batch_norm(flow: Flow, node: Node) -> Carriers:
    """Also instance norm: each channel on its own, over axis 1."""
    arguments = arguments_of(node)
    x = arguments["input"]
    line = flow.line(x, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arguments[name] is not None:
            flow.units.tie(line, flow.line(arguments[name], 0))
    flow.means |= {arguments["running_mean"]} - {None}
    flow.variances |= {arguments["running_var"]} - {None}
    flow.nonlinear.append((line, node))
    return flow.of(x)


def norm_over_units(flow: Flow, node: Node) -> Carriers:
    """Layer, group and RMS norm: each member's part is normalised on its own (`fusion.rebuild.block_norm`)."""
    arguments = arguments_of(node)
    x = arguments["input"]
    is_group_norm = operation_of(node) == "group_norm"
    first = 1 if is_group_norm else rank_of(x) - len(arguments["normalized_shape"])
    over = [first] if is_group_norm else list(range(first, rank_of(x)))
    free = [axis for axis in over if flow.is_free(x, axis)]
    if len(free) > 1 or any(len(c.axes) > 1 and set(c.axes) & set(over) for c in _resolved(flow, x)):
        raise refusal(node, "units lie along several of the axes that it normalises over")
    for name in ("weight", "bias"):
        vector = arguments.get(name)
        if vector is not None:
            for axis in over:
                flow.units.tie(flow.line(x, axis), flow.line(vector, axis - first))
    for carrier in flow.of(x):
        flow.nonlinear.append((carrier.ids, node))
    return flow.of(x)


def local_response_norm(flow: Flow, node: Node) -> Carriers:
    """Over neighbouring channels of axis 1: each member's channels keep their own neighbours."""
    x = arguments_of(node)["input"]
    flow.nonlinear.append((flow.line(x, 1), node))
    return flow.of(x)


def embedding(flow: Flow, node: Node) -> Carriers:
    """A table (words, units): a row per word."""
    weight = arguments_of(node)["weight"]
    _parameter(flow, node, weight)
    flow.fix(weight, 0)
    line = flow.line(weight, 1)
    flow.writes.append((weight, line, place_of(node)))
    return [axis_carrier(line, -1, rank_of(node))]


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(flow: Flow, node: Node) -> list[Carriers]:
    """LSTM, GRU and plain cells: gates stacked over the hidden units, which read themselves."""
    arguments = arguments_of(node)
    x, weights, has_biases = arguments["input"], arguments["params"], arguments["has_biases"]
    directions = 2 if arguments["bidirectional"] else 1
    num_cells = arguments["num_layers"] * directions
    is_projected = len(weights) == num_cells * (5 if has_biases else 3)
    per_cell = len(weights) // num_cells
    read, made = flow.line(x, -1), []
    for start in range(0, len(weights), per_cell):
        made.append(_cell(flow, node, read, weights[start : start + per_cell], is_projected))
        if len(made) % directions == 0:  # the last of a layer, which the next one reads
            read = np.concatenate([hidden for hidden, _ in made[-directions:]])
    # The state that starts and ends the sequence: hidden units, and for an LSTM its cells.
    states = [np.stack(lines)[:, None, :] for lines in zip(*made, strict=True)]
    given = arguments["hx"] if isinstance(arguments["hx"], (list, tuple)) else [arguments["hx"]]
    for value, final in zip(given, states, strict=False):
        for carrier in flow.of(value):
            if 2 in carrier.axes:
                flow.units.tie(carrier.expanded(shape_of(value)), final)
    flow.nonlinear += [(line, node) for lines in made for line in lines]
    ends = [[Carrier((0, 2), f) if len(f) > 1 else axis_carrier(f[0, 0], -1, 3)] for f in states]
    return [[axis_carrier(read, -1, rank_of(x))], *ends[: len(given)]]


def _cell(
    flow: Flow, node: Node, read: np.ndarray, weights: list[Node], is_projected: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Tie what one direction of one layer reads and makes; the numbers of its hidden units, and of its cells."""
    from_input, from_hidden, *others = weights
    hidden = cells = flow.line(from_hidden, 1)
    flow.reads |= {(from_input, 1), (from_hidden, 1)}
    flow.units.tie(flow.line(from_input, 1), read)
    if is_projected:  # hidden units are made of the cells by a linear layer (proj_size)
        projection = others.pop()
        cells = flow.line(projection, 1)
        flow.reads.add((projection, 1))
        flow.units.tie(flow.line(projection, 0), hidden)
        flow.writes.append((projection, hidden, place_of(node)))
    for vector in (from_input, from_hidden, *others):
        flow.units.tie(flow.line(vector, 0).reshape(GATES[operation_of(node)], -1), cells)
    flow.writes.append((from_input, cells, place_of(node)))
    return hidden, cells


def _dense(flow: Flow, node: Node, x: Node, weight: Node, bias: Any, channel: int) -> Carriers:
    _parameter(flow, node, weight)
    flow.reads.add((weight, 1))
    flow.units.tie(flow.line(weight, 1), flow.line(x, channel))
    return _made(flow, node, x, weight, bias, flow.line(weight, 0), channel)


def _made(flow: Flow, node: Node, x: Node, weight: Node, bias: Any, made: np.ndarray, channel: int) -> Carriers:
    if bias is not None:
        flow.units.tie(made, flow.line(bias, 0))
    flow.writes.append((weight, made, place_of(node)))
    if any(flow.is_free(x, axis) for axis in range(rank_of(x)) if axis != channel):
        raise refusal(node, "units lie along an axis that it treats as positions")
    return [axis_carrier(made, channel, rank_of(node))]


def _parameter(flow: Flow, node: Node, weight: Any) -> None:
    if not flow.is_static(weight):
        raise refusal(node, "its weight is computed from the input, not a parameter")


def _resolved(flow: Flow, node: Node) -> Carriers:
    """Carriers with the axes along which they still vary once all ties so far are taken into account."""
    found = []
    for carrier in flow.of(node):
        ids = flow.units.find(carrier.ids)
        axes = tuple(a for a in carrier.axes if (ids != ids.take([0], a)).any()) or carrier.axes[:1]
        found.append(Carrier(axes, ids))
    return found
