"""A module as the list of operations that its forward pass runs (torch.export), and the tensors it runs them on.

What depends on parameters alone (a weight under weight norm, a standardised kernel, a table of relative positions) is
computed once per member and replaces the parameters it was made of: `folded` values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from amalgam.tasks.tracing.nodes import CONSTANT, concrete, is_tensor, module_of, operation_of
from amalgam.tasks.tracing.running import (
    evaluating,
    tensors_in,
    unfused_attention,
    whole_response_norms,
    without_advice,
)

Inputs = tuple[Any, ...]


@dataclass
class Program:
    """The recorded operations of a module."""

    graph: Graph
    parameters: dict[Node, str]
    """Placeholder -> name in the state dict (or attribute path) of every tensor of the module."""
    outside: frozenset[str]
    """Names of those tensors outside the state dict: non-persistent buffers, tensors that are plain attributes."""
    constants: Mapping[str, Tensor]
    """Values of `outside`, for the recorded module."""
    inputs: list[Node]
    """Placeholders of what the caller passes, in order."""
    example: Inputs
    output_structure: Any
    """How the outputs are nested (a pytree specification)."""
    buffers: frozenset[str] = frozenset()
    static: set[Node] = field(default_factory=set)
    """Operations that depend on parameters alone."""

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            self.note(node)

    def note(self, node: Node) -> None:
        """Add an operation to `static` if it belongs there."""
        if node in self.parameters or (
            node.op == "call_function" and all(source in self.static for source in node.all_input_nodes)
        ):
            self.static.add(node)

    def separate_uses(self) -> None:
        """Make every use of a parameter but the first one of a tensor of its own, which may be merged differently."""
        for node in [n for n in self.parameters if n.op == "placeholder"]:
            for user in list(node.users)[1:]:
                self.note(_alias(self.graph, node, [user]))

    def tensors(self) -> dict[Node, str]:
        """Every static value that the rest of the program reads -> its name: parameters, and folded values."""
        used = [n for n in self.graph.nodes if n in self.static and is_tensor(n) and self._is_read(n)]
        names = {node: self.parameters[node] for node in used if node in self.parameters}
        for node in used:
            if node not in names:
                names[node] = self._folded_name(node, set(names.values()))
        return names

    def values(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> tensor of everything in `tensors`, for a member whose state dict is given."""
        known: dict[Node, Any] = {}
        for node in self.graph.nodes:
            if node in self.parameters:
                name = self.parameters[node]
                known[node] = (state[name] if name in state else self.constants[name]).detach()
            elif node in self.static and operation_of(node) != "_assert_tensor_metadata":  # asserts the recorded types
                with torch.no_grad():
                    arguments = concrete(list(node.args), known)
                    known[node] = node.target(*arguments, **concrete_keywords(node, known))
        return {name: known[node] for node, name in self.tensors().items()}

    def _is_read(self, node: Node) -> bool:
        return any(user not in self.static for user in node.users)

    def _folded_name(self, node: Node, taken: set[str]) -> str:
        user = next(user for user in node.users if user not in self.static)
        path = module_of(user)[0]
        is_weight = operation_of(user) in WEIGHTED and len(user.args) > 1 and user.args[1] is node
        name = ".".join(filter(None, [path, "weight" if is_weight else f"{node.name}_value"]))
        return name if name not in taken else f"{name}_{node.name}"


WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def concrete_keywords(node: Node, known: Mapping[Node, Any]) -> dict[str, Any]:
    return {name: concrete(value, known) for name, value in node.kwargs.items()}


def record(module: nn.Module, example: Tensor | Inputs) -> Program:
    """The program of `module` in eval mode. The module is not changed; the batch stays variable where it can.

    Raises ValueError if the forward pass cannot be recorded (control flow that depends on data), or for NaN or infinity
    in the example.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if any(x.is_floating_point() and not x.isfinite().all() for x in tensors_in(inputs)):
        raise ValueError("the example has NaN or infinity")
    inputs = tuple(_two(value) for value in inputs)
    with evaluating(module), unfused_attention(), whole_response_norms(), without_advice(), torch.no_grad():
        try:
            program = torch.export.export(module, inputs, strict=False, dynamic_shapes=_free_batch(inputs))
        except Exception:
            try:
                program = torch.export.export(module, inputs, strict=False)
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                reason += "; quantised networks are not supported: fuse before quantising" if "quant" in reason else ""
                raise ValueError(
                    f"{type(module).__name__} could not be traced with the given example: {reason}"
                ) from error
    signature = program.graph_signature
    placeholders = {
        **signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants,
    }  # fmt: skip
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    held = dict(module.named_buffers(remove_duplicate=False)) | dict(program.constants)
    for placeholder, name in placeholders.items():
        if name in held and not held[name].is_floating_point():
            by_name[placeholder].meta[CONSTANT] = held[name]
    for node in program.graph.nodes:
        if (
            node.op == "call_function"
            and node.all_input_nodes
            and all(CONSTANT in n.meta for n in node.all_input_nodes)
        ):
            node.meta[CONSTANT] = node.target(*concrete(list(node.args), {}), **concrete_keywords(node, {}))
    _separate_tables(program.graph)
    outside = set(signature.non_persistent_buffers) | set(signature.inputs_to_lifted_tensor_constants.values())
    return Program(
        graph=program.graph,
        parameters={by_name[placeholder]: name for placeholder, name in placeholders.items()},
        outside=frozenset(outside),
        constants={name: program.constants[name] for name in outside},
        inputs=[by_name[name] for name in signature.user_inputs if name in by_name],
        example=inputs,
        output_structure=program.call_spec.out_spec,
        buffers=frozenset(signature.inputs_to_buffers.values()),
    )


def _separate_tables(graph: Graph) -> None:
    """A table of embeddings that other operations read too (tied words) becomes two: it makes units and reads them."""
    for node in [n for n in graph.nodes if n.op == "placeholder"]:
        looked_up = [user for user in node.users if operation_of(user) == "embedding"]
        if looked_up and len(looked_up) < len(node.users):
            _alias(graph, node, looked_up)


def _alias(graph: Graph, node: Node, users: list[Node]) -> Node:
    """A value of its own for some users of a parameter."""
    with graph.inserting_before(users[0]):
        alias = graph.call_function(torch.ops.aten.alias.default, (node,))
    alias.meta = {**users[0].meta, "val": node.meta["val"]}
    for user in users:
        user.replace_input_with(node, alias)
    return alias


def _two(value: Any) -> Any:
    """A batch of one as a batch of two: torch.export takes a length of 1 for a constant."""
    is_single = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
    return torch.cat([value, value]) if is_single else value


def _free_batch(inputs: Inputs) -> tuple[Any, ...]:
    auto = torch.export.Dim.AUTO
    return tuple({0: auto} if isinstance(value, Tensor) and value.ndim else None for value in inputs)
