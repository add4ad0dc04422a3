"""Low-rank adapters on the linear layers of a network (Hu et al. 2022), and networks with adapters folded in."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amalgam.tasks.merging.adapters import Adapter, products

State = Mapping[str, Tensor]


class LoRALinear(nn.Module):
    """`W x + scaling B A x` with W fixed; B begins at zero."""

    def __init__(self, layer: nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = scaling

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the update."""
        result: Tensor = self.layer(x) + self.scaling * self.lora_B(self.lora_A(x))
        return result


def with_lora(module: nn.Module, rank: int, scaling: float, seed: int) -> nn.Module:
    """The module with an adapter on every linear layer that takes gradients; everything else is fixed.

    `module` is changed. Raises ValueError if no linear layer takes gradients.
    """
    chosen = [n for n, layer in module.named_modules() if isinstance(layer, nn.Linear) and layer.weight.requires_grad]
    if not chosen:
        raise ValueError(f"{type(module).__name__} has no linear layer that takes gradients: nothing can be adapted")
    module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in chosen:
            module.set_submodule(name, LoRALinear(module.get_submodule(name), rank, scaling))  # type: ignore[arg-type]
    return module


def adapter_state(state: State) -> dict[str, Tensor]:
    """The factors of LoRA alone."""
    return {name: tensor for name, tensor in state.items() if ".lora_" in name}


def folded(base: State, adapter: Adapter) -> dict[str, Tensor]:
    """The base's weights with the adapter's products added."""
    updates = products(adapter)
    return {name: (t + updates[name]).to(t.dtype) if name in updates else t for name, t in base.items()}
