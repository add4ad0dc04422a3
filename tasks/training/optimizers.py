"""The rule of a training step, by the name in its configuration."""

from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from amalgam.tasks.training.config import TrainConfig

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def optimizer(module: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimiser of all parameters of `module` that take gradients."""
    momentum = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return OPTIMIZERS[config.optimizer](
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        # Fused SGD reads momentum it never wrote if the fp16 scaler skips the first step, as it usually does.
        fused=config.precision != "fp16",
        **momentum,
    )
