"""Run networks of one architecture side by side, from layer to layer, so that one pass serves all layers.

A fitted layer changes what all later layers read. Fitting layer by layer with a forward pass for each would be
quadratic in depth; a `Walk` stops before every layer, keeps what is still needed, and goes on with the weights it
finds.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from amalgam.tasks.fusion.fitting.layers import Affine, Layer, layer_of
from amalgam.tasks.tracing.running import without_advice


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
        self.layers = {node: layer for node in self.nodes if (layer := layer_of(node, self.names, module))}
        """Every layer that can be read or fitted, in the order of computation."""
        self._inputs = iter(inputs)
        self._values: dict[Node, Any] = {}
        self._last_use = {argument: node for node in self.nodes for argument in node.all_input_nodes}
        self._position = 0

    def before(self, weight: str) -> Layer:
        """Go on to the layer that reads the parameter `weight`, and stop before it.

        Raises ValueError if the network has no such layer ahead.
        """
        while self._position < len(self.nodes):
            node = self.nodes[self._position]
            if node in self.layers and self.layers[node].weight == weight:
                return self.layers[node]
            self._step(node)
        raise ValueError(f"{weight} is not read in the same order by all members: pass refit=False")

    def input_of(self, layer: Layer) -> Tensor:
        """What the layer that it stopped before reads."""
        x: Tensor = self._values[layer.node.all_input_nodes[0]]
        return x

    def output_of(self, layer: Layer, *, final: bool = False) -> Tensor:
        """What the layer, and the norm that is fitted with it, make of that input.

        With `final` parameters it is kept, and the walk goes on from there.
        """
        found = {layer.node: self._run(layer.node)}
        if layer.then is not None:
            found[layer.then] = self._run(layer.then, found)
        if final:
            self._values.update(found)
        y: Tensor = found[layer.then or layer.node]
        return y.movedim(-1, layer.axis) if isinstance(layer, Affine) else y

    def _step(self, node: Node) -> None:
        if node.op == "placeholder":
            self._values[node] = self._placeholder(node)
        elif node.op != "output" and node not in self._values:
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
