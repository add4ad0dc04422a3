"""Graphs with labelled nodes as plain tensors: read from arrays, drawn from a block model, divided among clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Parts = tuple[Tensor, Tensor, Tensor]
"""Node numbers to train, validate and test on."""
NAMES = ("num_nodes", "num_features", "feature_row", "feature_column", "label", "edge")


@dataclass(frozen=True)
class Graph:
    """Nodes with features and classes, and undirected links."""

    features: Tensor
    """(nodes, features), rows summing to 1 or 0."""
    edges: Tensor
    """(links, 2), each link once, no loops."""
    labels: Tensor
    """(nodes,); -1 of none."""

    @cached_property
    def adjacency(self) -> Tensor:
        """`D^-1/2 (A + I) D^-1/2`, sparse, (nodes, nodes): how a layer averages neighbours (Kipf & Welling 2017)."""
        count = len(self.features)
        loops = torch.arange(count)
        rows = torch.cat([self.edges[:, 0], self.edges[:, 1], loops])
        columns = torch.cat([self.edges[:, 1], self.edges[:, 0], loops])
        scale = torch.bincount(rows, minlength=count).float().rsqrt()
        indices = torch.stack([rows, columns])
        return torch.sparse_coo_tensor(indices, scale[rows] * scale[columns], (count, count), check_invariants=True)

    def part(self, nodes: Tensor) -> "Graph":
        """The graph of some nodes, in their order, and of the links among them."""
        place = torch.full((len(self.features),), -1)
        place[nodes] = torch.arange(len(nodes))
        edges = place[self.edges]
        return Graph(self.features[nodes], edges[(edges >= 0).all(1)], self.labels[nodes])


def read_graph(path: Path) -> Graph:
    """The largest connected component of a graph in an .npz file. Raises ValueError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in NAMES}
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must be an .npz file with the arrays {', '.join(NAMES)}: {error}") from error
    features = torch.zeros(int(found["num_nodes"]), int(found["num_features"]))
    features[found["feature_row"].astype(np.int64), found["feature_column"].astype(np.int64)] = 1
    features /= features.sum(1, keepdim=True).clamp_min(1)
    graph = Graph(features, torch.from_numpy(found["edge"].astype(np.int64)), torch.from_numpy(found["label"]).long())
    component = _components(graph)
    largest = np.bincount(component).argmax()
    return graph.part(torch.from_numpy(np.flatnonzero(component == largest)))


def block_model(sizes: Sequence[int], inside: float, between: float, width: int, seed: int) -> Graph:
    """A random graph of communities, whose numbers are the labels (Holland et al. 1983).

    Nodes are linked with probability `inside` or `between`; features are normal.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    chance = torch.where(labels[:, None] == labels, inside, between)
    edges = (torch.rand(chance.shape, generator=generator) < chance).triu(1).nonzero()
    return Graph(torch.randn(len(labels), width, generator=generator), edges, labels)


def planted_clusters(seed: int, communities: int = 6, size: int = 60, classes: int = 3, width: int = 12) -> Graph:
    """A block model in which the first half of the communities names classes otherwise than the second half.

    Features show a node's hidden kind, which both halves share; one network for all clients must be wrong in a half.
    """
    blocks = block_model((size,) * communities, 0.15, 0.005, width, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    kinds = torch.randint(classes, (len(blocks.labels),), generator=generator)
    means = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator), dim=1)
    same = kinds[blocks.edges[:, 0]] == kinds[blocks.edges[:, 1]]
    labels = torch.where(blocks.labels < communities // 2, kinds, (kinds + 1) % classes)
    return Graph(2 * means[kinds] + blocks.features, blocks.edges[same], labels)


def communities(graph: Graph, count: int, seed: int) -> list[Tensor]:
    """Nodes in `count` parts of about equal size with few links between them.

    Communities of high modularity (Blondel et al. 2008) are packed, largest first, where most links lead and there is
    room (FED-PUB divides graphs by METIS). Raises ValueError for more parts than nodes.
    """
    import networkx

    num_nodes = len(graph.features)
    if not 0 < count <= num_nodes:
        raise ValueError(f"a graph of {num_nodes} nodes cannot be divided among {count} clients")
    network = networkx.Graph(graph.edges.tolist())
    network.add_nodes_from(range(num_nodes))
    most = -(-num_nodes // count)
    found = [sorted(each) for each in networkx.community.louvain_communities(network, seed=seed)]
    pieces = [one[start : start + most] for one in found for start in range(0, len(one), most)]
    parts: list[list[int]] = [[] for _ in range(count)]
    owner = torch.full((num_nodes,), -1)
    for piece in sorted(pieces, key=len, reverse=True):
        neighbours = owner[[other for node in piece for other in network[node]]]
        links = [int((neighbours == place).sum()) for place in range(count)]
        room = [len(part) + len(piece) <= most for part in parts]
        best = max(range(count), key=lambda place: (room[place], links[place] * room[place], -len(parts[place])))
        parts[best] += piece
        owner[piece] = best
    return [torch.tensor(sorted(part)) for part in parts]


def overlapping(parts: Sequence[Tensor], copies: int, seed: int) -> list[Tensor]:
    """Half of each part's nodes, drawn `copies` times: clients that share nodes (FED-PUB, section 5)."""
    generator = torch.Generator().manual_seed(seed)
    halves = [
        part[torch.randperm(len(part), generator=generator)[: len(part) // 2]] for part in parts for _ in range(copies)
    ]
    return [half.sort().values for half in halves]


def node_parts(graph: Graph, seed: int, train: float = 0.2) -> Parts:
    """Nodes with a label, a share to train on and equal halves of the rest to validate and to test on."""
    nodes = (graph.labels >= 0).nonzero()[:, 0]
    nodes = nodes[torch.randperm(len(nodes), generator=torch.Generator().manual_seed(seed))]
    first = max(1, round(train * len(nodes)))
    middle = first + (len(nodes) - first) // 2
    return nodes[:first], nodes[first:middle], nodes[middle:]


def _components(graph: Graph) -> np.ndarray:
    count, (rows, columns) = len(graph.features), graph.edges.T.numpy()
    return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (count, count)), directed=False)[1]
