"""A network of recorded operations as plain values, and back: what a file can hold without pickled code.

Operations are ATen's by name, layers their class and settings. Tensors are not part of the record.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx import Node

from amalgam.tasks.fusion.rebuild.block_layers import BlockConvolution, BlockLayer, BlockLinear, Segments
from amalgam.tasks.fusion.rebuild.block_norm import BlockNorm, NormBlocks
from amalgam.tasks.fusion.rebuild.network import module_at

Record = dict[str, Any]

PYTHON = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
"""Functions of Python's operator module that sizes are computed with."""
SYMBOLIC = ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not")
CONSTANTS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), CONVOLUTION),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), BATCH_NORM),
    BlockNorm: ("eps", "axis", "over", "is_centred"),
}
"""Layer -> the arguments that it is made with, which are its attributes too."""
KINDS = {kind.__name__: kind for kind in SETTINGS}
BLOCKS: dict[str, type[BlockLayer]] = {kind.__name__: kind for kind in (BlockLinear, BlockConvolution)}


def recorded(network: fx.GraphModule) -> Record:
    """The operations, layers and tensors (shape, type, whether learned) of a network, as JSON can hold them.

    Raises ValueError, naming it, for an operation or a layer that has no record.
    """
    layers = {path: layer_record(path, m) for path, m in network.named_modules() if _is_layer(m)}
    own = {f"{path}.{leaf}" for path, layer in layers.items() for leaf in layer_of(layer).state_dict()}
    tensors = {
        name: [list(t.shape), str(t.dtype).removeprefix("torch."), isinstance(t, nn.Parameter)]
        for name, t in network.state_dict(keep_vars=True).items()
        if name not in own
    }
    return {"nodes": [_node(node) for node in network.graph.nodes], "layers": layers, "tensors": tensors}


def replayed(record: Record) -> fx.GraphModule:
    """The network of a record, its tensors without values (on the meta device), in eval mode.

    Raises ValueError for a record that names anything but ATen's operations and known layers.
    """
    root, graph, nodes = nn.Module(), fx.Graph(), dict[str, Node]()
    for path, layer in record["layers"].items():
        above, _, leaf = path.rpartition(".")
        module_at(root, above).add_module(leaf, layer_of(layer))
    for name, (shape, dtype, is_learned) in record["tensors"].items():
        tensor = torch.empty(shape, dtype=_constant("dtype", dtype), device="meta")
        path, _, leaf = name.rpartition(".")
        owner = module_at(root, path)
        if is_learned:
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        else:
            owner.register_buffer(leaf, tensor)
    for one in record["nodes"]:
        target = _function(one["target"]) if one["op"] == "call_function" else one["target"]
        args, kwargs = tuple(_value(a, nodes) for a in one["args"]), {k: _value(v, nodes) for k, v in one["kwargs"]}
        nodes[one["name"]] = graph.create_node(one["op"], target, args, kwargs, one["name"])
    return fx.GraphModule(root, graph).eval()


def layer_record(path: str, layer: nn.Module) -> Record:
    """The class and the settings of a layer. Raises ValueError if its kind has no record."""
    if isinstance(layer, BlockLayer):
        rows, columns = ([each.shared, list(each.alone)] for each in (layer.rows, layer.columns))
        dense = layer_record(path, layer.dense())
        return {"kind": type(layer).__name__, "dense": dense, "rows": rows, "columns": columns}
    if type(layer) not in SETTINGS:
        raise ValueError(f"{path} ({type(layer).__name__}) is a layer that no file can hold")
    settings = {name: _plain(getattr(layer, name)) for name in SETTINGS[type(layer)]}
    shapes = {name: list(tensor.shape) for name, tensor in layer.state_dict().items()}
    return {"kind": type(layer).__name__, "settings": settings, "shapes": shapes}


def layer_of(record: Record) -> nn.Module:
    """The layer of a record, without values. Raises ValueError for a kind that is not known."""
    if record["kind"] in BLOCKS:
        rows, columns = (Segments(shared, tuple(alone)) for shared, alone in (record["rows"], record["columns"]))
        return BLOCKS[record["kind"]](layer_of(record["dense"]), rows, columns)
    if record["kind"] not in KINDS:
        raise ValueError(f"a layer is one of {', '.join((*KINDS, *BLOCKS))}, got {record['kind']!r}")
    kind, shapes = KINDS[record["kind"]], record["shapes"]
    settings = {name: _value(value, {}) for name, value in record["settings"].items()}
    with torch.device("meta"):
        if kind is BlockNorm:
            empty = {name: torch.empty(shape) for name, shape in shapes.items()}
            blocks = NormBlocks(empty["membership"], empty["shares"])
            return BlockNorm(blocks, empty.get("weight"), empty.get("bias"), **settings)
        biased = {} if "num_features" in settings else {"bias": "bias" in shapes}
        return kind(**settings, **biased)


def _is_layer(module: nn.Module) -> bool:
    return type(module) in SETTINGS or isinstance(module, BlockLayer)


def _node(node: Node) -> Record:
    target = _name(node) if node.op == "call_function" else str(node.target)
    args, kwargs = [_plain(a) for a in node.args], [[k, _plain(v)] for k, v in node.kwargs.items()]
    return {"name": node.name, "op": node.op, "target": target, "args": args, "kwargs": kwargs}


def _name(node: Node) -> str:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    name = getattr(target, "__name__", str(target))
    if name in PYTHON and target is getattr(operator, name):
        return f"operator.{name}"
    if name in SYMBOLIC:
        return f"torch.{name}"
    raise ValueError(f"{node.name} calls {name}, which no file can hold")


def _function(name: str) -> Any:
    home, _, rest = name.partition(".")
    if home == "operator" and rest in PYTHON:
        return getattr(operator, rest)
    if home == "torch" and rest in SYMBOLIC:
        return getattr(torch, rest)
    packet, _, overload = rest.partition(".")
    if home == "aten" and packet.isidentifier() and overload.isidentifier():
        return getattr(getattr(torch.ops.aten, packet), overload)
    raise ValueError(f"an operation is one of ATen's, got {name!r}")


def _plain(value: Any) -> Any:
    """An argument as JSON holds it: what JSON lacks is an object of one key."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else {"float": repr(value)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for name, kind in CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise ValueError(f"an argument of type {type(value).__name__} is one that no file can hold")


def _value(plain: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(plain, list):
        return [_value(item, nodes) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    readers: dict[str, Callable[[Any], Any]] = {
        "node": nodes.__getitem__,
        "float": float,
        "device": torch.device,
        "tuple": lambda items: tuple(_value(item, nodes) for item in items),
        "dict": lambda items: {_value(key, nodes): _value(item, nodes) for key, item in items},
    }
    return readers[kind](content) if kind in readers else _constant(kind, content)


def _constant(kind: str, name: str) -> Any:
    value = getattr(torch, name, None)
    if kind not in CONSTANTS or not isinstance(value, CONSTANTS[kind]):
        raise ValueError(f"torch has no {kind} {name!r}")
    return value
