"""Squared gradients of single examples without the gradients, where every layer is linear in rows, one per example.

There an example's gradient is the outer product of the layer's slope and its input, and the sum of its squares over
examples is one matrix product: `sum_b (g_b a_b^T)^2 = (G^2)^T A^2`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.running import hooked


@dataclass(frozen=True)
class RowLinear:
    """The pass of a batch through a network whose trained parameters all lie in such layers."""

    logits: Tensor
    layers: Mapping[str, nn.Linear]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @classmethod
    def passed(cls, module: nn.Module, images: Tensor) -> Self | None:
        """The pass, or None if a trained parameter lies elsewhere, or a layer sees several rows of an example."""
        layers = {
            name: layer for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and any(p.requires_grad for p in layer.parameters())
        }  # fmt: skip
        inside = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
        if any(p.requires_grad and id(p) not in inside for p in module.parameters()):
            return None
        seen: dict[int, list[tuple[Tensor, Tensor]]] = {id(layer): [] for layer in layers.values()}
        hooks = [
            layer.register_forward_hook(lambda one, given, out: seen[id(one)].append((given[0].detach(), out)))
            for layer in layers.values()
        ]
        with hooked(hooks):
            logits = module(images)
        if not all(len(found) == 1 and found[0][0].shape[:-1] == (len(images),) for found in seen.values()):
            return None
        pairs = [found[0] for found in seen.values()]
        return cls(logits, layers, [given for given, _ in pairs], [out for _, out in pairs])

    def squares(self, classes: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Weighted sums over examples of the squared gradients of each one's log-probability of its class."""
        chosen = self.logits.log_softmax(1).gather(1, classes[:, None]).sum()
        slopes = torch.autograd.grad(chosen, list(self.outputs), retain_graph=True)
        found = {}
        for (name, layer), given, slope in zip(self.layers.items(), self.inputs, slopes, strict=True):
            square = weights[:, None] * slope.square()
            prefix = name and f"{name}."  # the network may be the layer itself
            if layer.weight.requires_grad:
                found[f"{prefix}weight"] = square.T @ given.square()
            if layer.bias is not None and layer.bias.requires_grad:
                found[f"{prefix}bias"] = square.sum(0)
        return found
