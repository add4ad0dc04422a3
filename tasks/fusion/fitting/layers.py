"""The layers of a recorded network that can be fitted: what each unit reads at every position, and what it makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from amalgam.tasks.fusion.rebuild.block_norm import BlockNorm
from amalgam.tasks.tracing.nodes import arguments_of, module_of, operation_of, rank_of, shape_of

LINEAR, CONVOLUTIONS = ("linear",), ("conv1d", "conv2d")
NORMS = ("layer_norm", "group_norm", "rms_norm")
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A linear or convolution layer whose parameters nothing else reads, and the batch norm behind it."""

    node: Node
    weight: str
    """Name of the parameter."""
    bias: str | None
    then: Node | None = None
    """What is fitted with it: a batch norm."""
    norm_names: tuple[str, ...] = ()
    """Weight, bias, running mean and running variance of the batch norm."""

    @property
    def has_bias(self) -> bool:
        """Whether a constant can be added to its outputs, by its own bias or by the batch norm."""
        return self.bias is not None or bool(self.norm_names)

    @property
    def is_open(self) -> bool:
        """Whether what it makes of its input is fitted; a norm as a whole can only be read."""
        return operation_of(self.node) not in NORMS

    def num_rows(self, y: Tensor) -> int:
        """Every position of every image of an output is a row."""
        return y.numel() // y.shape[-1 if self._is_linear else 1]

    def rows(self, y: Tensor, kept: Tensor) -> Tensor:
        """(kept, units) of an output, at the rows of those numbers."""
        if self._is_linear:
            return y.flatten(0, -2)[kept]
        image, *places = torch.unravel_index(kept, (len(y), *y.shape[2:]))
        return y.movedim(1, -1)[(image, *places)]

    def features(self, x: Tensor, kept: Tensor) -> Tensor:
        """(kept, features) of an input: what a unit reads at those rows, in the order of its flattened weight.

        For a grouped convolution (groups, kept, features).
        """
        if self._is_linear:
            return x.flatten(0, -2)[kept]
        arguments = arguments_of(self.node)
        kernel = shape_of(arguments["weight"])[2:]
        dilation, padding, stride = (_numbers(arguments[n], len(kernel)) for n in ("dilation", "padding", "stride"))
        windows = F.pad(x, [side for amount in reversed(padding) for side in (amount, amount)])
        for axis, (length, apart, step) in enumerate(zip(kernel, dilation, stride, strict=True), 2):
            windows = windows.unfold(axis, (length - 1) * apart + 1, step)[..., ::apart]
        # A view (images, positions..., channels, kernel...), of which only the windows that are kept are copied.
        windows = windows.movedim(1, 1 + len(kernel))
        image, *places = torch.unravel_index(kept, windows.shape[: 1 + len(kernel)])
        return self.parted(windows[(image, *places)].flatten(1))

    def parted(self, rows: Tensor) -> Tensor:
        """(groups, rows, units) of (rows, all units), for the groups of a convolution; as it is without groups."""
        groups = 1 if self._is_linear else arguments_of(self.node)["groups"]
        return rows if groups == 1 else rows.unflatten(1, (groups, -1)).movedim(1, 0)

    @property
    def _is_linear(self) -> bool:
        return operation_of(self.node) in LINEAR


@dataclass(frozen=True)
class Affine(Layer):
    """Gain and shift of a norm over units: what each unit reads is its own normalised value.

    In a fused network, the product at the end of a `BlockNorm`; in a member, its whole norm, which can be read alone.
    """

    axis: int = -1
    """Where units lie in the norm's output."""

    def num_rows(self, y: Tensor) -> int:
        return y.numel() // y.shape[self.axis]

    def rows(self, y: Tensor, kept: Tensor) -> Tensor:
        return y.movedim(self.axis, -1).flatten(0, -2)[kept]

    def features(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.parted(x.flatten(0, -2)[kept])  # inside a block norm, units lie last

    def parted(self, rows: Tensor) -> Tensor:
        return rows.T[:, :, None]


def layer_of(node: Node, names: Mapping[str, str], module: nn.Module) -> Layer | None:
    """The layer that an operation is, if it can be fitted; `names` are those of placeholders."""
    if node.op != "call_function":
        return None
    arguments, kind = arguments_of(node), operation_of(node)
    if kind == "mul":
        return _gain(node, names, module)
    if kind not in (*LINEAR, *CONVOLUTIONS, *NORMS) or isinstance(arguments.get("padding"), str):
        return None
    own = [argument for argument in (arguments["weight"], arguments.get("bias")) if argument is not None]
    if not own or not all(isinstance(a, Node) and a.name in names and len(a.users) == 1 for a in own):
        return None
    weight, *bias = (names[argument.name] for argument in own)
    if kind in NORMS:
        return Affine(node, weight, bias[0] if bias else None)
    return Layer(node, weight, bias[0] if bias else None, *_norm_after(node, names))


def _gain(node: Node, names: Mapping[str, str], module: nn.Module) -> Affine | None:
    path = module_of(node)[0]
    norm = dict(module.named_modules()).get(path)
    weight = (*node.all_input_nodes, None, None)[1]
    if not isinstance(norm, BlockNorm) or weight is None or names.get(weight.name) != f"{path}.weight":
        return None
    if norm.weight is None or norm.weight.ndim != 1:
        return None
    shift = next(iter(node.users)) if norm.bias is not None else None
    return Affine(node, f"{path}.weight", f"{path}.bias" if shift else None, shift, axis=norm.axis)


def _norm_after(node: Node, names: Mapping[str, str]) -> tuple[Node | None, tuple[str, ...]]:
    users = list(node.users)
    if len(users) != 1 or operation_of(users[0]) != "batch_norm":
        return None, ()
    arguments = arguments_of(users[0])
    if arguments["training"] or (operation_of(node) == "linear" and rank_of(node) > 2):
        return None, ()  # of such an output it normalises the second axis, and the units are the last
    found = [arguments[name] for name in NORM_TENSORS]
    own = [names[a.name] for a in found if isinstance(a, Node) and a.name in names]
    return (users[0], tuple(own)) if len(own) == len(found) else (None, ())


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    """One number per axis, from one number or a list."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * count if len(values) == 1 else values
