"""Run networks of one architecture side by side, from layer to layer, so that one pass serves all layers.

A fitted layer changes what all later layers read. Fitting layer by layer with a forward pass for each would be
quadratic in depth; a `Walk` stops before every layer, keeps what is still needed, and goes on with the weights it
finds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from amalgam.tasks.tracing.nodes import arguments_of, operation_of, rank_of, shape_of
from amalgam.tasks.tracing.running import without_advice

LAYERS = ("linear", "conv1d", "conv2d")
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A linear or convolution layer of a graph whose parameters nothing else reads, and the batch norm behind it."""

    node: Node
    weight: str
    """Name of the parameter."""
    bias: str | None
    norm: Node | None
    norm_names: tuple[str, ...] = ()
    """Weight, bias, running mean and running variance of the batch norm."""

    @property
    def has_bias(self) -> bool:
        """Whether a constant can be added to its outputs, by its own bias or by the batch norm."""
        return self.bias is not None or self.norm is not None

    def rows(self, y: Tensor) -> Tensor:
        """(rows, units) of an output: every position of every image is a row."""
        return y.flatten(0, -2) if self._is_linear else y.movedim(1, -1).flatten(0, -2)

    def features(self, x: Tensor) -> Tensor:
        """(rows, features) of an input: what a unit reads at each position, in the order of its flattened weight."""
        if self._is_linear:
            return x.flatten(0, -2)
        arguments = arguments_of(self.node)
        shape = shape_of(arguments["weight"])[2:]
        settings = (arguments[name] for name in ("dilation", "padding", "stride"))
        geometry = [_pair(value, len(shape)) for value in (shape, *settings)]
        if len(shape) == 1:  # a signal is an image of one row
            x, geometry = x.unsqueeze(2), [(first, *rest) for first, rest in zip((1, 1, 0, 1), geometry, strict=True)]
        return F.unfold(x, *geometry).movedim(1, 2).flatten(0, 1)

    @property
    def _is_linear(self) -> bool:
        return operation_of(self.node) == "linear"


class Walk:
    """The forward pass of one network in eval mode on one batch, up to a chosen layer."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad(), without_advice():
            program = torch.export.export(module.eval(), inputs, strict=False)
        signature = program.graph_signature
        self.names: Mapping[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.nodes = list(program.graph.nodes)
        self._constants = {
            name: program.constants[target] for name, target in signature.inputs_to_lifted_tensor_constants.items()
        }
        self.state = {**dict(module.named_buffers(remove_duplicate=False)), **module.state_dict()}
        """Parameters and buffers by name: what is written here is read by the rest of the walk."""
        self._inputs = iter(inputs)
        self._values: dict[Node, Any] = {}
        self._last_use = {argument: node for node in self.nodes for argument in node.all_input_nodes}
        self._position = 0

    def layers(self) -> Iterator[Layer]:
        """Every layer that can be fitted, in the order of computation."""
        for node in self.nodes:
            if node.op == "call_function" and operation_of(node) in LAYERS and (layer := self._layer(node)):
                yield layer

    def before(self, weight: str) -> Layer:
        """Go on to the layer that reads the parameter `weight`, and stop before it.

        Raises ValueError if the network has no such layer ahead.
        """
        while self._position < len(self.nodes):
            node = self.nodes[self._position]
            if node.op == "call_function" and operation_of(node) in LAYERS:
                layer = self._layer(node)
                if layer and layer.weight == weight:
                    return layer
            self._step(node)
        raise ValueError(f"{weight} is not read in the same order by all members: pass refit=False")

    def input_of(self, layer: Layer) -> Tensor:
        """What the layer that it stopped before reads."""
        x: Tensor = self._values[layer.node.all_input_nodes[0]]
        return x

    def output_of(self, layer: Layer) -> Tensor:
        """What the layer, and the batch norm behind it, make of that input; nothing is kept."""
        y: Tensor = self._run(layer.node)
        if layer.norm is not None:
            y = self._run(layer.norm, {layer.node: y})
        return y

    def _layer(self, node: Node) -> Layer | None:
        arguments = arguments_of(node)
        if arguments.get("groups", 1) != 1 or isinstance(arguments.get("padding"), str):
            return None
        own = [argument for argument in (arguments["weight"], arguments["bias"]) if argument is not None]
        if not all(isinstance(a, Node) and a.name in self.names and len(a.users) == 1 for a in own):
            return None
        weight, *bias = (self.names[argument.name] for argument in own)
        return Layer(node, weight, bias[0] if bias else None, *self._norm_after(node))

    def _norm_after(self, node: Node) -> tuple[Node | None, tuple[str, ...]]:
        users = list(node.users)
        if len(users) != 1 or operation_of(users[0]) != "batch_norm":
            return None, ()
        arguments = arguments_of(users[0])
        if arguments["training"] or (operation_of(node) == "linear" and rank_of(node) > 2):
            return None, ()  # of such an output it normalises the second axis, and the units are the last
        found = [arguments[name] for name in NORM_TENSORS]
        names = [self.names[a.name] for a in found if isinstance(a, Node) and a.name in self.names]
        return (users[0], tuple(names)) if len(names) == len(found) else (None, ())

    def _step(self, node: Node) -> None:
        if node.op == "placeholder":
            self._values[node] = self._placeholder(node)
        elif node.op != "output":
            self._values[node] = self._run(node)
        for argument in node.all_input_nodes:
            if self._last_use[argument] is node:
                self._values.pop(argument, None)
        self._position += 1

    def _placeholder(self, node: Node) -> Any:
        if node.name in self.names:
            return self.state[self.names[node.name]]
        return self._constants[node.name] if node.name in self._constants else next(self._inputs)

    def _run(self, node: Node, known: Mapping[Node, Any] | None = None) -> Any:
        values = {**self._values, **known} if known else self._values
        args, kwargs = map_arg((node.args, node.kwargs), lambda argument: values[argument])
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _pair(value: Any, count: int) -> tuple[int, ...]:
    """One number per axis, from one number or a list."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * count if len(values) == 1 else values
