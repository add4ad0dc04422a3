"""Clients of a federation: nodes of a graph, or images, each divided into parts to train, validate and test on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.merging.clients.graphs import Graph, Parts, node_parts

Hits: TypeAlias = tuple[int, int]
"""Examples recognised, and examples."""


class Client(Protocol):
    """A client's data."""

    @property
    def size(self) -> int:
        """Examples that it trains on."""
        ...

    def losses(self, network: nn.Module, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of every step of an epoch."""
        ...

    def hits(self, network: nn.Module, part: int) -> Hits:
        """On the training (0), validation (1) or test part (2)."""
        ...


@dataclass(frozen=True)
class Nodes:
    """A graph, of which one step sees all training nodes."""

    graph: Graph
    parts: Parts

    @property
    def size(self) -> int:
        """Training nodes."""
        return len(self.parts[0])

    def losses(self, network: nn.Module, generator: torch.Generator) -> Iterator[Tensor]:
        """One step."""
        nodes = self.parts[0]
        yield cross_entropy(network(self.graph)[nodes], self.graph.labels[nodes])

    def hits(self, network: nn.Module, part: int) -> Hits:
        """On the nodes of a part."""
        nodes = self.parts[part]
        found = network(self.graph)[nodes].argmax(1) == self.graph.labels[nodes]
        return int(found.sum()), len(nodes)


@dataclass(frozen=True)
class Pictures:
    """Images in memory, scaled, and the positions of each part."""

    images: Tensor
    labels: Tensor
    parts: Parts
    batch_size: int = 32

    @property
    def size(self) -> int:
        """Training images."""
        return len(self.parts[0])

    def losses(self, network: nn.Module, generator: torch.Generator) -> Iterator[Tensor]:
        """A step for each batch, in a drawn order."""
        order = self.parts[0][torch.randperm(self.size, generator=generator)]
        for places in order.split(self.batch_size):
            yield cross_entropy(network(self.images[places]), self.labels[places])

    def hits(self, network: nn.Module, part: int) -> Hits:
        """On the images of a part."""
        places = self.parts[part]
        found = network(self.images[places]).argmax(1) == self.labels[places]
        return int(found.sum()), len(places)


def graph_clients(graph: Graph, nodes: Sequence[Tensor], seed: int) -> list[Nodes]:
    """A client for each set of nodes; nodes of several clients are in one and the same part at all of them.

    Sets without a node to train on have none.
    """
    roles = torch.full((len(graph.labels),), -1)
    for role, part in enumerate(node_parts(graph, seed)):
        roles[part] = role
    clients = []
    for own in nodes:
        train, validation, test = ((roles[own] == role).nonzero()[:, 0] for role in range(3))
        clients.append(Nodes(graph.part(own), (train, validation, test)))
    return [client for client in clients if client.size]


def skewed_clients(images: Tensor, labels: Tensor, count: int, skew: float, seed: int) -> list[Pictures]:
    """Clients whose shares of each class are drawn from a Dirichlet distribution of concentration `skew`.

    The smaller it is, the fewer classes a client sees; half of its images are trained on, a quarter each validates
    and tests. Clients with fewer than four images are left out.
    """
    draw = np.random.default_rng(seed)
    owner = np.empty(len(labels), np.int64)
    for label in labels.unique().tolist():
        places = (labels == label).numpy().nonzero()[0]
        owner[places] = draw.choice(count, len(places), p=draw.dirichlet([skew] * count))
    clients = []
    for number in range(count):
        own = torch.from_numpy(draw.permutation((owner == number).nonzero()[0]))
        half, quarter = len(own) // 2, len(own) // 4
        if quarter:
            clients.append(Pictures(images, labels, (own[:half], own[half : half + quarter], own[half + quarter :])))
    return clients
