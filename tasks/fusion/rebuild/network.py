"""A network of other widths from recorded operations: each operation is written for what its units became.

Layers keep their modules and names (`nn.Linear`, `nn.Conv2d`, batch norms), so that statistics can be repaired and
layers replaced; everything else is a call of ATen. The result is an `fx.GraphModule` in eval mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from amalgam.tasks.fusion.unit_map import UnitMaps
from amalgam.tasks.tracing.groups import Traced
from amalgam.tasks.tracing.layout import Layout
from amalgam.tasks.tracing.nodes import refusal, shape_of

aten = torch.ops.aten


@dataclass
class Writer:
    """The new network while it is being written."""

    traced: Traced
    maps: UnitMaps
    tensors: Mapping[str, Tensor]
    """The fused parameters, by name."""
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    new: dict[Node, Any] = field(default_factory=dict)
    """Old value -> new one. Values that no axis order can express have none until they are read."""

    @property
    def widths(self) -> dict[str, int]:
        """Units of each group in the new network."""
        return {group: maps[0].width for group, maps in self.maps.items()}

    def layouts(self, node: Node) -> dict[int, Layout]:
        """Axis -> layout of a value that can be expressed."""
        found = self.traced.layouts(node)
        if found is None:
            raise refusal(node, "units lie along several axes at once")
        return found

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    def mapped(self, argument: Any) -> Any:
        """An argument of an old operation, for the new one."""
        return fx.node.map_arg(argument, lambda node: self.new[node])

    def again(self, node: Node) -> Node:
        """The same operation on the new values."""
        return self.graph.create_node("call_function", node.target, self.mapped(node.args), self.mapped(node.kwargs))

    def constant(self, name: str, tensor: Tensor) -> Node:
        """A buffer of the new network, as a value."""
        while hasattr(self.root, name):
            name += "_"
        self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def parameter(self, name: str) -> Node:
        """A fused parameter, as a value; it keeps its name."""
        path, _, leaf = name.rpartition(".")
        owner = module_at(self.root, path)
        if leaf not in owner._parameters and leaf not in owner._buffers:
            tensor = self.tensors[name]
            is_buffer = name in self.traced.program.buffers or not tensor.is_floating_point()
            if is_buffer:
                owner.register_buffer(leaf, tensor)
            else:
                owner.register_parameter(leaf, nn.Parameter(tensor))
        return self.graph.get_attr(name)

    def module(self, path: str, module: nn.Module, *args: Any) -> Node:
        """A call of a module, which the new network gets at a path."""
        above, _, leaf = path.rpartition(".")
        owner = module_at(self.root, above)
        existing = owner._modules.get(leaf)
        if type(existing) in (nn.Module, type(None)):
            for name, tensor in existing._parameters.items() if existing else ():
                if name not in module._parameters:  # read by another operation, under this module's path
                    module.register_parameter(name, tensor)
            owner.add_module(leaf, module)
        return self.graph.call_module(path, args)

    def picked(self, value: Node, axis: int, rank: int, index: np.ndarray) -> Node:
        """Entries of a new value with `rank` axes along one of them; -1 picks zero."""
        if (index < 0).any():
            # As padding, so that a trace of the new network knows that these entries belong to no unit.
            value = self.call(aten.constant_pad_nd.default, value, [0, 0] * (rank - 1 - axis) + [1, 0])
            index = index + 1
        if len(index) and (np.diff(index) == 1).all():
            return self.call(aten.slice.Tensor, value, axis, int(index[0]), int(index[-1]) + 1)
        return self.call(
            aten.index_select.default, value, axis, self.constant("entries", torch.from_numpy(index.copy()))
        )

    def gathered(
        self, node: Node, value: Node, place: tuple[int, int], layout: Layout, source: Layout, positions: np.ndarray
    ) -> Node:
        """A new value laid out as `source` along an axis, brought to `layout` for `node` (see `Layout.gather`).

        `place` is the axis, and the rank of the value.
        """
        try:
            return self.picked(value, *place, layout.gather(source, positions, self.widths))
        except ValueError as error:
            raise refusal(node, str(error)) from error


def module_at(root: nn.Module, path: str) -> nn.Module:
    """The module of a path, made where it is not there."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def path_of(writer: Writer, weight: Any, bias: Any) -> str | None:
    """The module path that parameters share, if they are called as a layer's are."""
    names = writer.traced.flow.tensors
    path = names[weight].rpartition(".")[0]
    leaf = "running_mean" if names[weight].endswith("running_mean") else "weight"
    good = names[weight] == f"{path}.{leaf}" and (bias is None or names.get(bias) == f"{path}.bias")
    return path if path and good else None


def length_along(writer: Writer, node: Node, axis: int) -> int:
    """Entries of a value along an axis in the new network."""
    layout = writer.layouts(node).get(axis % len(shape_of(node)))
    return layout.width(writer.widths) if layout else shape_of(node)[axis]
