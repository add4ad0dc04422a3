"""Which layers of a fused network are executed as blocks: those that are faster, or hold enough structural zeros."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.block_layers import (
    CONVOLUTIONS,
    BlockConvolution,
    BlockLayer,
    BlockLinear,
    Segments,
)
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.running import copied, hooked

WORTHWHILE = 0.75  # nonzeros over entries below which blocks are used when nothing is measured
RUNS = 5


def structured(
    fused: nn.Module, axes: Axes, couplings: Mapping[str, Coupling], example: Tensor | tuple[Tensor, ...] | None = None
) -> nn.Module:
    """A copy of `fused` that stores no structural zeros in layers where blocks are cheaper.

    With `example`, a batch of inputs, every layer is timed on what it reads there, and blocks are used where they are
    faster; without, where at most three quarters of the entries are nonzero. Layers of other kinds stay dense.
    """
    result = copied(fused).eval()
    segments = {group: Segments.of(coupling) for group, coupling in couplings.items()}
    found = {path: block for path, block in _blocks(result, axes, segments).items() if block is not None}
    inputs = _inputs(result, list(found), example) if example is not None else {}
    for path, block in found.items():
        dense = result.get_submodule(path)
        worthwhile = _faster(block, dense, inputs[path]) if path in inputs else _share(block) <= WORTHWHILE
        if worthwhile:
            parent, _, leaf = path.rpartition(".")
            setattr(result.get_submodule(parent), leaf, block)
    return result


def _blocks(
    module: nn.Module, axes: Axes, segments: Mapping[str, Segments | None]
) -> dict[str, BlockLinear | BlockConvolution | None]:
    """Path of every layer between two hidden groups -> its block form; None where it has none."""
    found: dict[str, BlockLinear | BlockConvolution | None] = {}
    for name, entries in axes.of.items():
        path = name.removesuffix(".weight")
        hidden = [axis for axis in entries if axis and axis.group in axes.groups]
        if path == name or len(hidden) != 2 or not all(entries[:2]):
            continue
        rows, columns = (segments[axis.group] for axis in hidden)
        layer = module.get_submodule(path)
        # A member with no unit of its own beside one that has some would need an empty convolution.
        if rows and columns and all(len({bool(n) for n in each.alone}) == 1 for each in (rows, columns)):
            found[path] = _block(layer, rows.times(hidden[0].repeat), columns.times(hidden[1].repeat))
    return found


def _block(layer: nn.Module, rows: Segments, columns: Segments) -> BlockLinear | BlockConvolution | None:
    if type(layer) is nn.Linear:
        return BlockLinear(layer, rows, columns)
    is_plain = isinstance(layer, tuple(CONVOLUTIONS)) and layer.groups == 1 and layer.padding_mode == "zeros"
    return BlockConvolution(layer, rows, columns) if is_plain else None  # type: ignore[arg-type]


def _inputs(module: nn.Module, paths: Sequence[str], example: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What each layer reads on the example."""
    taken: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: taken.update({path: args[0]}))
        for path in paths
    ]
    with hooked(handles), torch.no_grad():
        module(*(example if isinstance(example, tuple) else (example,)))
    return taken


def _share(block: BlockLayer) -> float:
    stored = sum(p.numel() for name, p in block.named_parameters() if name != "bias")
    return stored / block.dense_weight().numel()


def _faster(block: nn.Module, dense: nn.Module, x: Tensor) -> bool:
    return _seconds(block, x) < _seconds(dense, x)


@torch.no_grad()
def _seconds(layer: nn.Module, x: Tensor) -> float:
    """The best of a few runs, the first left out."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        layer(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
