"""Which rule stands for which operation of ATen; an elementwise operation needs no entry."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node

from amalgam.tasks.tracing.flow import Carriers, Flow
from amalgam.tasks.tracing.nodes import operation_of, rank_of, refusal, tensors_of
from amalgam.tasks.tracing.rules import layers, movement, pointwise

Rule = Callable[[Flow, Node], "Carriers | list[Carriers]"]

MOVES = (
    "flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as",
    "permute", "transpose", "t", "movedim", "swapaxes", "slice", "select", "narrow", "chunk", "split",
    "split_with_sizes", "unbind", "roll", "flip", "repeat", "repeat_interleave", "index_select", "channel_shuffle",
    "pixel_unshuffle", "numpy_T", "mT",
)  # fmt: skip
SAME = ("contiguous", "clone", "detach", "alias", "to", "_to_copy", "lift_fresh_copy", "dropout", "feature_dropout")
POOLS = [f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)]
PER_CHANNEL = (
    *POOLS, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "grid_sampler",
)  # fmt: skip
FACTORIES = (
    "zeros", "new_zeros", "ones", "new_ones", "full", "new_full", "arange", "zeros_like", "ones_like", "full_like",
    "empty", "scalar_tensor", "_assert_tensor_metadata", "sym_size",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "linear": layers.linear, "conv1d": layers.convolution, "conv2d": layers.convolution, "conv3d": layers.convolution,
    "conv_transpose1d": layers.transposed_convolution, "conv_transpose2d": layers.transposed_convolution,
    "conv_transpose3d": layers.transposed_convolution,
    "batch_norm": layers.batch_norm, "instance_norm": layers.batch_norm, "layer_norm": layers.norm_over_units,
    "local_response_norm": layers.local_response_norm,
    "group_norm": layers.norm_over_units, "rms_norm": layers.norm_over_units, "prelu": pointwise.prelu,
    "embedding": layers.embedding, **dict.fromkeys(layers.GATES, layers.recurrent),
    "mean": pointwise.reduction, "sum": pointwise.reduction, "linalg_vector_norm": pointwise.reduction,
    "amax": pointwise.reduction, "amin": pointwise.reduction, "softmax": pointwise.along_positions,
    "log_softmax": pointwise.along_positions, "_softmax": pointwise.along_positions,
    "cumsum": pointwise.along_positions, "matmul": pointwise.product, "bmm": pointwise.product,
    "mm": pointwise.product, "scaled_dot_product_attention": pointwise.attention,
    "cat": movement.concatenation, "concat": movement.concatenation, "constant_pad_nd": movement.padding,
    "pad": movement.padding, "pixel_shuffle": movement.pixel_shuffle, "getitem": movement.item,
    "expand": movement.expand, "expand_as": movement.expand, "broadcast_to": movement.expand,
    **dict.fromkeys(MOVES, movement.moved_entries), **dict.fromkeys(PER_CHANNEL, pointwise.per_channel),
    **dict.fromkeys(FACTORIES, movement.factory),
    **dict.fromkeys(SAME, lambda flow, node: flow.of(tensors_of(node)[0])),
}  # fmt: skip


def visit(flow: Flow, node: Node) -> None:
    """Find the carriers of one value."""
    if node.op == "placeholder" or flow.is_static(node):
        if flow.is_static(node) and isinstance(node.meta.get("val"), Tensor):
            flow.carriers[node] = flow.own(node)
        return
    if node.op != "call_function":
        return
    result = _rule(node)(flow, node)
    if isinstance(node.meta.get("val"), Tensor):
        flow.carriers[node] = _free(flow, result)  # type: ignore[arg-type]
    else:
        flow.parts[node] = [_free(flow, part) for part in result]  # type: ignore[arg-type]


def _free(flow: Flow, carriers: Carriers) -> Carriers:
    return [carrier for carrier in carriers if flow.units.is_free(carrier.ids)]


def _rule(node: Node) -> Rule:
    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) or operation_of(node) in POINTWISE
    return RULES.get(operation_of(node), pointwise.pointwise if is_pointwise else _unknown)


POINTWISE = ("log_sigmoid", "hardswish", "hardsigmoid", "hardtanh", "relu6", "selu", "celu", "mish", "softplus",
             "softshrink", "hardshrink", "rrelu", "threshold", "elu", "gelu", "silu", "leaky_relu",
             "where", "masked_fill", "square", "logit")  # fmt: skip
"""Elementwise operations that ATen does not tag as such."""


def _unknown(flow: Flow, node: Node) -> Carriers:
    for tensor in tensors_of(node):
        if any(flow.is_free(tensor, axis) for axis in range(rank_of(tensor))) and not flow.is_static(tensor):
            why = (
                "quantised networks are not supported: fuse before quantising"
                if "quant" in operation_of(node)
                else "there is no rule for this operation"
            )
            raise refusal(node, why)
        flow.fix(tensor, *range(rank_of(tensor)))
    return []
