"""How a module is copied, and run to be looked at: in eval mode, with hooks that do not stay, attention unfused."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy, also of a module that keeps results of a forward pass, whose history deepcopy refuses.

    Such are a weight under `torch.nn.utils.weight_norm` or a pruning mask, and activations that a class remembers.
    """
    kept = [t for part in module.modules() for t in tensors_in(list(vars(part).values())) if not t.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in kept})


@contextmanager
def without_advice() -> Iterator[None]:
    """No warnings of torch.export that a module assigns tensors while it is recorded (recurrent layers, caches)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attribute")
        yield


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


@torch.library.custom_op("amalgam::local_response_norm", mutates_args=())
def local_response_norm(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Each channel divided by a power of the mean square of its neighbours, as one operation of a recorded program."""
    return F.local_response_norm(input, size, alpha, beta, k)


@local_response_norm.register_fake
def _same_shape(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(input)


@contextmanager
def whole_response_norms() -> Iterator[None]:
    """Local response norms as one operation: of the pooling over channels that they are made of no unit can be told."""
    plain = F.local_response_norm

    def whole(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
        F.local_response_norm = plain
        try:
            return local_response_norm(input, size, float(alpha), float(beta), float(k))
        finally:
            F.local_response_norm = whole

    F.local_response_norm = whole
    try:
        yield
    finally:
        F.local_response_norm = plain


def tensors_in(outputs: Any) -> list[Tensor]:
    """Every tensor that a module returned, however nested."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
