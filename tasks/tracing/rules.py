"""What each recorded operation says about units: which labels it ties, and which labels its result has.

One rule per kind of operation; an elementwise operation has the same rule whatever it computes. An operation with no
rule is refused by name as soon as units reach it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from amalgam.tasks.tracing.labels import FIXED, Label, Labels

Dims = list[Label]
Rule = Callable[["Flow", Node], Dims]

# They treat every channel alike: a labelled axis that keeps its length passes through.
POOLS = [f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)]
PER_CHANNEL = ("upsample_nearest2d", "upsample_bilinear2d", "constant_pad_nd", "pad", "dropout", "feature_dropout",
               "contiguous", "clone", "detach", "alias", "to", "lift_fresh_copy", "_to_copy", "slice",
               "expand")  # fmt: skip
RESHAPES = ("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "unflatten")
LINEAR_POINTWISE = ("add", "sub", "neg", "mul", "div")


@dataclass
class Flow:
    """What is known while walking over a graph."""

    names: Mapping[str, str]
    """Placeholder -> name of its parameter or buffer in the state dict."""
    labels: Labels = field(default_factory=Labels)
    dims: dict[Node, Dims] = field(default_factory=dict)
    """Labels of every value seen so far, one per axis."""
    reads: set[tuple[str, int]] = field(default_factory=set)
    """(parameter, axis) that consume units."""
    writes: list[tuple[str, Label, str]] = field(default_factory=list)
    """(weight, label of the units it makes, module path) of every layer, in the order of computation."""
    means: set[str] = field(default_factory=set)
    variances: set[str] = field(default_factory=set)
    nonlinear: list[tuple[Label, Node]] = field(default_factory=list)
    """Labels that went through an operation for which the mean of results is not the result of the mean."""

    def visit(self, node: Node) -> None:
        """Find the labels of one value."""
        if node.op == "placeholder":
            known = node.name in self.names
            self.dims[node] = [self.labels.new() if known else FIXED for _ in shape_of(node)]
        elif node.op == "call_function":
            self.dims[node] = rule_for(node)(self, node)

    def of(self, node: Any) -> Dims:
        return self.dims[node] if isinstance(node, Node) else []

    def tie(self, node: Node, left: Label, right: Label) -> None:
        if not self.labels.tie(left, right):
            raise refusal(node, "it ties units in blocks that do not divide each other")


def _layer(flow: Flow, node: Node) -> Dims:
    """Linear and ungrouped convolution: weight (out, in, ...), optional bias (out,)."""
    x, weight, *rest = arguments_of(node)
    bias, groups = (*rest, None)[0], (*rest, 1, 1, 1, 1, 1)[4]
    if groups != 1:
        raise refusal(node, f"groups={groups}, and only groups=1 is carried")
    if not isinstance(weight, Node) or weight.name not in flow.names:
        raise refusal(node, "its weight is computed, not a parameter")
    name = flow.names[weight.name]
    channel = rank_of(x) - 1 if is_named(node, "linear") else rank_of(x) - rank_of(weight) + 1
    made, read = flow.of(weight)[:2]
    flow.reads.add((name, 1))
    flow.writes.append((name, made, place_of(node)))
    flow.tie(node, read, flow.of(x)[channel])
    if bias is not None:
        flow.tie(node, made, flow.of(bias)[0])
    for tap in flow.of(weight)[2:]:
        flow.tie(node, tap, FIXED)
    _only(flow, node, x, channel)
    return [made if i == channel else FIXED for i in range(rank_of(node))]


def _batch_norm(flow: Flow, node: Node) -> Dims:
    x, *vectors = arguments_of(node)[:5]
    channel = flow.of(x)[1]
    for vector in vectors:
        if vector is not None:
            flow.tie(node, channel, flow.of(vector)[0])
    for statistic, found in ((vectors[2], flow.means), (vectors[3], flow.variances)):
        if isinstance(statistic, Node):
            found.add(flow.names[statistic.name])
    flow.nonlinear.append((channel, node))
    return flow.of(x)


def _prelu(flow: Flow, node: Node) -> Dims:
    x, slope = arguments_of(node)[:2]
    flow.tie(node, FIXED if shape_of(slope) == (1,) else flow.of(x)[1], flow.of(slope)[0])
    flow.nonlinear += [(label, node) for label in flow.of(x)]
    return flow.of(x)


def _pointwise(flow: Flow, node: Node) -> Dims:
    """Any elementwise operation: aligned axes of equal length carry the same units."""
    out: Dims = [FIXED] * rank_of(node)
    tensors, shape = tensors_of(node), shape_of(node)
    for position in range(1, len(shape) + 1):
        aligned = [(flow.of(t)[-position], shape_of(t)[-position]) for t in tensors if rank_of(t) >= position]
        labels = [label for label, length in aligned if length == shape[-position]]
        for label, length in aligned:
            flow.tie(node, label, labels[0] if length == shape[-position] else FIXED)
        out[-position] = labels[0]
    products = is_named(node, "mul", "div") and len(tensors) > 1
    if products or not is_named(node, *LINEAR_POINTWISE):
        flow.nonlinear += [(label, node) for label in out]
    return out


def _per_channel(flow: Flow, node: Node) -> Dims:
    x = arguments_of(node)[0]
    lengths = list(zip(flow.of(x), shape_of(x), shape_of(node), strict=False))
    if rank_of(x) != rank_of(node) or any(flow.labels.is_free(label) and a != b for label, a, b in lengths):
        raise refusal(node, "it changes the number of units")
    return [label if a == b else FIXED for label, a, b in lengths]


def _mean(flow: Flow, node: Node) -> Dims:
    x, dims, *_ = (*arguments_of(node), None)
    reduced = {d % rank_of(x) for d in dims} if isinstance(dims, Sequence) and dims else set(range(rank_of(x)))
    if any(flow.labels.is_free(flow.of(x)[d]) for d in reduced):
        raise refusal(node, "it mixes the units of a group")
    kept = [FIXED if i in reduced else label for i, label in enumerate(flow.of(x))]
    return kept if rank_of(node) == rank_of(x) else [label for i, label in enumerate(kept) if i not in reduced]


def _permute(flow: Flow, node: Node) -> Dims:
    x, *order = arguments_of(node)
    dims, rank = list(flow.of(x)), rank_of(node)
    if is_named(node, "permute"):
        return [dims[i % rank] for i in order[0]]
    i, j = (axis % rank for axis in order or (0, 1))
    dims[i], dims[j] = dims[j], dims[i]
    return dims


def _reshape(flow: Flow, node: Node) -> Dims:
    """Split the shapes before and after into the smallest blocks of equal size, and carry labels block by block."""
    x = arguments_of(node)[0]
    before, after = list(zip(shape_of(x), flow.of(x), strict=True)), list(shape_of(node))
    out: Dims = []
    while before and after:
        taken, made = [before.pop(0)], [after.pop(0)]
        while (old := math.prod(size for size, _ in taken)) != (new := math.prod(made)):
            if old < new:
                taken.append(before.pop(0))
            else:
                made.append(after.pop(0))
        out += _block(flow, node, taken, made)
    return out + [FIXED] * len(after)


def _block(flow: Flow, node: Node, taken: list[tuple[int, Label]], made: list[int]) -> Dims:
    # Axes `taken` are joined row-major and split again into `made`. If the axis with units is the outermost one, each
    # unit is `repeat` neighbours of the joined axis, and the first made axis has units again: each of its entries
    # spans `rest` neighbours, so `rest` must divide `repeat`, or an entry would hold parts of two units. An axis
    # outside of the units (outer > 1) or a second one with units would scatter a unit over distant entries.
    free = [i for i, (_, label) in enumerate(taken) if flow.labels.is_free(label)]
    if not free:
        return [FIXED] * len(made)
    label, inner = taken[free[0]][1], math.prod(size for size, _ in taken[free[0] + 1 :])
    outer, repeat = math.prod(size for size, _ in taken[: free[0]]), label.repeat * inner
    rest = math.prod(made[1:])
    if len(free) > 1 or outer > 1 or repeat % rest:
        raise refusal(node, "it interleaves units with other axes; units must come first where axes are joined")
    return [Label(label.root, repeat // rest)] + [FIXED] * (len(made) - 1)


def _unlabelled(flow: Flow, node: Node) -> Dims:
    if any(flow.labels.is_free(label) for tensor in tensors_of(node) for label in flow.of(tensor)):
        last = " (if it ends the network, return plain logits)" if "softmax" in operation_of(node) else ""
        raise refusal(node, f"no rule says what it does to units{last}")
    for tensor in tensors_of(node):
        for label in flow.of(tensor):
            flow.tie(node, label, FIXED)
    value = node.meta.get("val")
    return [FIXED] * value.ndim if isinstance(value, Tensor) else []


RULES: dict[str, Rule] = {
    "linear": _layer, "conv1d": _layer, "conv2d": _layer, "conv3d": _layer, "convolution": _layer,
    "batch_norm": _batch_norm, "prelu": _prelu, "mean": _mean,
    "permute": _permute, "transpose": _permute, "t": _permute,
    **dict.fromkeys(RESHAPES, _reshape), **dict.fromkeys((*POOLS, *PER_CHANNEL), _per_channel),
}  # fmt: skip


def rule_for(node: Node) -> Rule:
    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return RULES.get(operation_of(node), _pointwise if is_pointwise else _unlabelled)


def _only(flow: Flow, node: Node, x: Node, channel: int) -> None:
    if any(flow.labels.is_free(label) for i, label in enumerate(flow.of(x)) if i != channel):
        raise refusal(node, "units lie along an axis that it treats as positions")


def refusal(node: Node, why: str) -> ValueError:
    return ValueError(f"{place_of(node)}: cannot carry units through {operation_of(node)}: {why}")


def place_of(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "Module")
    return f"{path or 'the network itself'} ({str(kind).rsplit('.', 1)[-1]})"


def operation_of(node: Node) -> str:
    """The operation's name; its in-place form (`add_`) carries units like the plain one."""
    name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
    return name if name.startswith("_") else name.rstrip("_")


def arguments_of(node: Node) -> tuple[Any, ...]:
    return node.args


def is_named(node: Node, *names: str) -> bool:
    return operation_of(node) in names


def tensors_of(node: Node) -> list[Node]:
    return [arg for arg in node.all_input_nodes if isinstance(arg.meta.get("val"), Tensor)]


def shape_of(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def rank_of(node: Any) -> int:
    return len(shape_of(node))
