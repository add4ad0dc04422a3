"""What is read off a recorded operation: its name, shapes, arguments, and the module that it belongs to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.fx import Node

CONSTANT = "constant"
"""Where a value keeps its numbers, if it is a table of positions that the network holds."""


def refusal(node: Node, why: str) -> ValueError:
    """The error that names the module path and the operation."""
    return ValueError(f"{place_of(node)}: cannot carry units through {operation_of(node)}: {why}")


def place_of(node: Node) -> str:
    """Path and class of the module that an operation belongs to."""
    path, kind = module_of(node)
    return f"{path or 'the network itself'} ({kind.rsplit('.', 1)[-1]})"


def module_of(node: Node) -> tuple[str, str]:
    """Path and qualified class name of the module that an operation belongs to."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "Module")
    return path, str(kind)


def operation_of(node: Node) -> str:
    """The operation's name; its in-place form (`add_`) carries units like the plain one."""
    name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
    return name if name.startswith("_") else name.rstrip("_")


def arguments_of(node: Node) -> dict[str, Any]:
    """Every argument by the name that the operation's schema gives it, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(enumerate(node.args))  # type: ignore[arg-type]
    positional = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return defaults | positional | dict(node.kwargs)


def tensors_of(node: Node) -> list[Node]:
    """The inputs of an operation that are tensors."""
    return [arg for arg in node.all_input_nodes if is_tensor(arg)]


def is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a value for the example it was recorded with."""
    return sizes_of(node.meta["val"])


def sizes_of(value: Tensor) -> tuple[int, ...]:
    return tuple(as_int(size) for size in value.shape)


def is_symbolic(node: Node, axis: int) -> bool:
    """Whether an axis is as long as the batch makes it."""
    return not isinstance(node.meta["val"].shape[axis], int)


def rank_of(node: Any) -> int:
    return node.meta["val"].ndim


def as_int(size: Any) -> int:
    """A size that may depend on the batch, for the batch it was recorded with."""
    return size if isinstance(size, int) else int(size.node.hint)


def concrete(argument: Any, tensors: Mapping[Node, Tensor]) -> Any:
    """An argument with numbers for sizes and the given tensors for values, so that the operation can be run."""
    if isinstance(argument, Node):
        if argument in tensors:
            return tensors[argument]
        value = argument.meta.get(CONSTANT, argument.meta["val"])
        if isinstance(value, FakeTensor):  # of which only the shape can matter
            return torch.empty(sizes_of(value), dtype=value.dtype)
        return as_int(value) if isinstance(value, (int, torch.SymInt)) else value
    if isinstance(argument, (list, tuple)):
        return type(argument)(concrete(item, tensors) for item in argument)
    return argument
