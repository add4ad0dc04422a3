"""How a module is run to be looked at: in eval mode, with hooks that do not stay, without fused attention."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode while it lasts; afterwards each submodule is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are removed at the end."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Attention as its single operations: fused, it is one call that neither a trace nor a FLOP counter sees into."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def tensors_in(outputs: Any) -> list[Tensor]:
    """Every tensor that a module returned, however nested."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
