"""Inputs of linear layers: their Grams for RegMean, those under a partly merged network for RegMean++; mean outputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from amalgam.tasks.scoring.sums import Sums
from amalgam.tasks.tracing.running import hooked

State = Mapping[str, Tensor]


def gram_sums(module: nn.Module, inputs: Iterable[Tensor]) -> Sums:
    """`X^T X` (inputs, inputs) of every linear layer, X all its input vectors, by its weight's name."""
    total = Sums()
    layers = linear_layers(module)
    module.eval()
    for batch in inputs:
        found: dict[str, Tensor] = {}
        with watching(layers, found), torch.no_grad():
            module(batch)
        total.add(found)
        total.count(len(batch))
    return total


def mean_output(module: nn.Module, inputs: Tensor) -> Tensor:
    """The mean output on a batch that all members share, such as noise: what functional similarity compares."""
    module.eval()
    with torch.no_grad():
        return module(inputs).double().mean(0).flatten()


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers by the name of their weight."""
    return {f"{name}.weight": layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


@contextmanager
def watching(layers: Mapping[str, nn.Linear], found: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts, the Grams of the layers' inputs are added to `found`, in the order in which layers are used."""

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).double()
        found[name] = found.get(name, 0) + rows.T @ rows

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
        for name, layer in layers.items()
    ]
    with hooked(hooks):
        yield


class MergedBelow:
    """Grams of each member's inputs in a network whose lower layers are merged already (RegMean++)."""

    def __init__(self, module: nn.Module, members: Sequence[State], inputs: Sequence[Sequence[Tensor]]) -> None:
        self.module, self.members, self.inputs = module.eval(), members, inputs
        order: dict[str, Tensor] = {}
        with watching(linear_layers(module), order), torch.no_grad():
            module(inputs[0][0])
        self.layers = tuple(name for name in order if name in members[0])

    def gram(self, member: int, name: str, merged: State) -> Tensor:
        """`X^T X` of one layer: what is merged so far with the member's other tensors, on the member's data."""
        state = {**self.members[member], **merged}
        total: dict[str, Tensor] = {}
        layers = {name: linear_layers(self.module)[name]}
        with watching(layers, total), torch.no_grad():
            for batch in self.inputs[member]:
                functional_call(self.module, state, (batch,))
        return total[name]
