"""A graph convolution network in plain torch, and networks whose every weight has a personal mask."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from amalgam.tasks.merging.clients.graphs import Graph


class GCN(nn.Module):
    """Two layers that average over neighbours, and a linear classifier (Kipf & Welling 2017)."""

    def __init__(self, num_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(num_features, width), nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, graph: Graph) -> Tensor:
        """Logits (nodes, classes)."""
        logits: Tensor = self.classifier(self.embed(graph))
        return logits

    def embed(self, graph: Graph) -> Tensor:
        """What the second layer gives, (nodes, width)."""
        adjacency = graph.adjacency
        hidden = torch.relu(torch.sparse.mm(adjacency, self.first(graph.features)))
        return torch.relu(torch.sparse.mm(adjacency, self.second(hidden)))


class Masked(nn.Module):
    """A network whose weights count as `weight * mask`, both learned (FED-PUB, Baek et al. 2023).

    Penalties are of the parameters themselves, not of a state dict, whose tensors have no gradient.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.masks = nn.ParameterDict({_key(name): torch.ones_like(p) for name, p in network.named_parameters()})

    def forward(self, x: Any) -> Tensor:
        """What the network gives with its masked weights."""
        logits: Tensor = functional_call(self.network, self.effective(), (x,))
        return logits

    def effective(self, threshold: float = 0.0) -> dict[str, Tensor]:
        """Weights times masks, masks of a size below `threshold` taken as 0."""
        return {
            name: p * torch.where(self.masks[_key(name)].abs() < threshold, 0, self.masks[_key(name)])
            for name, p in self.network.named_parameters()
        }

    def penalty(self, sparsity: float, proximity: float, received: Mapping[str, Tensor]) -> Tensor:
        """`sparsity` times the sum of the masks' sizes, and `proximity` times the weights' distance from `received`."""
        sizes = torch.stack([mask.abs().sum() for mask in self.masks.values()]).sum()
        return sparsity * sizes + proximity * distance(self.network, received)


def distance(network: nn.Module, received: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean distance of all weights from some others; its gradient is 0 where they are equal."""
    squares = torch.stack([(p - received[name]).square().sum() for name, p in network.named_parameters()]).sum()
    return squares.sqrt() if float(squares.detach()) > 0 else squares


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of parameters cannot contain a dot
