"""The rule of a training step, by the name in its configuration: for whole parameters, or for some of their entries."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from amalgam.tasks.training.config import TrainConfig

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
Masks = Mapping[str, Tensor]
"""By parameter, True where an entry is trained; a parameter without a mask is trained whole."""


def optimizer(module: nn.Module, config: TrainConfig, masks: Masks | None = None) -> Optimizer:
    """The optimiser of all parameters of `module` that take gradients, or of their entries in `masks`."""
    momentum = {"momentum": config.momentum} if config.optimizer == "sgd" else {}

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        return OPTIMIZERS[config.optimizer](
            parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # Fused SGD reads momentum it never wrote if the fp16 scaler skips the first step, as it usually does.
            fused=config.precision != "fp16",
            **momentum,
        )

    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return make(list(trained.values())) if masks is None else MaskedOptimizer(trained, masks, make)


class MaskedOptimizer(Optimizer):
    """Another optimiser on the trained entries alone, gathered before each step and scattered after it.

    Entries that are not trained are in no tensor that it computes with: neither decay nor momentum can move them, and
    it keeps no moments of them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        masks: Masks,
        make: Callable[[list[nn.Parameter]], Optimizer],
    ) -> None:
        for name, mask in masks.items():
            if name not in parameters or mask.shape != parameters[name].shape:
                raise ValueError(f"mask {name!r} {tuple(mask.shape)} is of no trained parameter: choose masks again")
        self._full = list(parameters.values())
        self._masks = [masks[n].to(one.device) if n in masks else None for n, one in parameters.items()]
        self._compact = [nn.Parameter(_gathered(one, m)) for one, m in zip(self._full, self._masks, strict=True)]
        self.inner = make(self._compact)
        super().__init__(self._full, {"lr": self.inner.defaults["lr"]})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of the trained entries; parameters without a gradient stay."""
        assert closure is None, "masked training has no closures"
        for group in self.inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        together = list(zip(self._full, self._masks, self._compact, strict=True))
        for full, mask, compact in together:
            compact.copy_(_gathered(full, mask))
            compact.grad = None if full.grad is None else _gathered(full.grad, mask)
        self.inner.step()
        for full, mask, compact in together:
            if mask is None:
                full.copy_(compact)
            else:
                full.masked_scatter_(mask, compact)

    def state_dict(self) -> dict[str, Any]:
        """That of the optimiser of the trained entries."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the optimiser that gave `state` was."""
        self.inner.load_state_dict(state)


def _gathered(full: Tensor, mask: Tensor | None) -> Tensor:
    return full.detach().clone() if mask is None else full.detach()[mask]
