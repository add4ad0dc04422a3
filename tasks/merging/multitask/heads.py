"""A network as an encoder, which is merged, and a head, its last linear layer, which stays with its task."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.running import hooked

State = Mapping[str, Tensor]


def head_of(module: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer and its name. Raises ValueError if there is none."""
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no linear layer that could be a task's head")
    return layers[-1]


def encoder_state(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor but the head's."""
    prefix = head_of(module)[0] + "."
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(prefix)}


def with_encoder(module: nn.Module, encoder: State) -> nn.Module:
    """The module, its own head behind another encoder."""
    missing = module.load_state_dict(dict(encoder), strict=False)
    head = head_of(module)[0]
    assert not missing.unexpected_keys and all(name.startswith(head) for name in missing.missing_keys)
    return module.eval()


def with_all_heads(modules: Sequence[nn.Module], encoder: State) -> nn.Module:
    """A new network of one encoder and one head that has the rows of the heads of all modules, one below another."""
    whole, heads = copy.deepcopy(with_encoder(modules[0], encoder)), [head_of(module)[1] for module in modules]
    head = head_of(whole)[1]
    head.weight = nn.Parameter(torch.cat([one.weight.detach().cpu() for one in heads]), requires_grad=False)
    if head.bias is not None:
        head.bias = nn.Parameter(torch.cat([one.bias.detach().cpu() for one in heads]), requires_grad=False)
    head.out_features = len(head.weight)
    return whole


def fit_head(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> None:
    """Set the head to logistic regression on what the encoder gives, and fix it.

    Raises ValueError if a class is absent.
    """
    from sklearn.linear_model import LogisticRegression  # here, not above: only this needs it

    _, head = head_of(module)
    features, labels = [], []
    for images, classes in batches:
        with inputs_of(head) as seen, torch.no_grad():
            module.eval()(images)
        features.append(seen[0].flatten(1).double().cpu().numpy())
        labels.append(classes.cpu().numpy())
    x, y = np.concatenate(features), np.concatenate(labels)
    if len(found := np.unique(y)) != num_classes:
        raise ValueError(f"{len(found)} of {num_classes} classes have training images: give more of them")
    fitted = LogisticRegression(max_iter=5000).fit(x, y)
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if num_classes == 2:  # scikit-learn gives the difference of the two
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
    head.requires_grad_(False)


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of the layer while it lasts."""
    seen: list[Tensor] = []
    with hooked([layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))]):
        yield seen
