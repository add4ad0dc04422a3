"""Squared gradients of single examples layer by layer, from what each layer reads and the slope of what it gives.

An example's gradient is then one small product per layer. Where a layer sees one row of an example, not even that is
needed: `sum_b (g_b a_b^T)^2 = (G^2)^T A^2` is one matrix product for all examples.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.tracing.running import hooked

MOST_NUMBERS = 2**24  # of gradients of single examples of one layer held at once: 64 MB in single precision
Gradients = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
"""Of a layer, its input and the slope of its output, both (examples, ...): (examples, *shape) by parameter."""


@dataclass(frozen=True)
class ByLayer:
    """The pass of a batch through a network whose trained parameters all lie in layers of known kinds."""

    logits: Tensor
    layers: Mapping[str, nn.Module]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @classmethod
    def passed(cls, module: nn.Module, images: Tensor) -> Self | None:
        """The pass in eval mode, or None if a trained parameter lies elsewhere, or a layer is used twice."""
        layers = {
            name: layer
            for name, layer in module.named_modules()
            if _is_known(layer) and any(p.requires_grad for p in layer.parameters(recurse=False))
        }
        inside = [id(parameter) for layer in layers.values() for parameter in layer.parameters()]
        trained = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        if not trained <= set(inside) or len(set(inside)) < len(inside):
            return None
        seen: dict[int, list[tuple[Tensor, Tensor]]] = {id(layer): [] for layer in layers.values()}

        def note(layer: nn.Module, given: Any, out: Tensor) -> Tensor:
            seen[id(layer)].append((given[0].detach().clone(), out))
            return out.clone()  # an activation in place would change what the slope is of

        hooks = [layer.register_forward_hook(note) for layer in layers.values()]
        with hooked(hooks):
            logits = module(images)
        if not all(len(found) == 1 and len(found[0][0]) == len(images) for found in seen.values()):
            return None
        pairs = [found[0] for found in seen.values()]
        return cls(logits, layers, [given for given, _ in pairs], [out for _, out in pairs])

    def squares(self, choices: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Sums of the squared gradients of examples' log-probabilities of some classes, over all choices and examples.

        A choice is a class of each example and what its square weighs. Layers that see one row of an example add the
        squares of slopes over all choices first, so that many classes take one product.
        """
        logs = self.logits.log_softmax(1)
        rows = [_sees_rows(layer, x) for layer, x in zip(self.layers.values(), self.inputs, strict=True)]
        totals: list[dict[str, Tensor]] = [{} for _ in rows]
        for classes, weights in choices:
            chosen = logs.gather(1, classes[:, None]).sum()
            slopes = torch.autograd.grad(chosen, list(self.outputs), retain_graph=True)
            parts = zip(self.layers.values(), self.inputs, slopes, totals, rows, strict=True)
            for layer, x, slope, total, in_rows in parts:
                _add(
                    total,
                    {"slopes": weights[:, None] * slope.square()} if in_rows else _squares(layer, x, slope, weights),
                )
        return dict(self._named(totals))

    def _named(self, totals: Sequence[dict[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for (name, layer), x, total in zip(self.layers.items(), self.inputs, totals, strict=True):
            if "slopes" in total:
                total |= {"weight": total["slopes"].T @ x.square(), "bias": total["slopes"].sum(0)}
            prefix = name and f"{name}."  # the network may be the layer itself
            for parameter, _ in layer.named_parameters(recurse=False):
                if layer.get_parameter(parameter).requires_grad:
                    yield prefix + parameter, total[parameter]


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding_mode != "zeros"):
        return False
    return type(layer) in GRADIENTS and not isinstance(getattr(layer, "padding", 0), str)


def _sees_rows(layer: nn.Module, x: Tensor) -> bool:
    return isinstance(layer, nn.Linear) and x.ndim == 2


def _squares(layer: nn.Module, given: Tensor, slope: Tensor, weights: Tensor) -> dict[str, Tensor]:
    size = sum(p.numel() for p in layer.parameters(recurse=False))
    total: dict[str, Tensor] = {}
    for x, g, w in zip(*(part.split(max(1, MOST_NUMBERS // size)) for part in (given, slope, weights)), strict=True):
        gradients = GRADIENTS[type(layer)](layer, x, g)
        _add(total, {name: torch.einsum("b,b...->...", w, each.square()) for name, each in gradients.items()})
    return total


def _add(total: dict[str, Tensor], amounts: Mapping[str, Tensor]) -> None:
    for name, amount in amounts.items():
        total[name] = total[name] + amount if name in total else amount


def _linear(layer: nn.Linear, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Several rows of each example, such as its tokens."""
    rows, slopes = x.flatten(1, -2), slope.flatten(1, -2)
    found = {"weight": slopes.transpose(1, 2) @ rows}
    return found if layer.bias is None else found | {"bias": slopes.sum(1)}


def _convolution(layer: nn.Conv2d, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    padding: Any = layer.padding
    patches = F.unfold(x, layer.weight.shape[2:], layer.dilation, padding, layer.stride)
    slopes = slope.flatten(2)
    found = {"weight": (slopes @ patches.transpose(1, 2)).unflatten(2, layer.weight.shape[1:])}
    return found if layer.bias is None else found | {"bias": slopes.sum(2)}


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    normed = F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
    return {"weight": (slope * normed).flatten(2).sum(2), "bias": slope.flatten(2).sum(2)}


def _layer_norm(layer: nn.LayerNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    normed = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    axes = tuple(range(1, x.ndim - len(layer.normalized_shape)))
    both = {"weight": slope * normed, "bias": slope}
    return {name: each.sum(axes) if axes else each for name, each in both.items() if getattr(layer, name) is not None}


GRADIENTS: dict[type[nn.Module], Gradients] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
}
"""Layers whose gradients are known; another kind with trained parameters takes `torch.func` for the whole network."""
