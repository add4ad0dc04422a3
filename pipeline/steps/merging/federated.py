"""One federation: rounds of local training and merging, resumable after each, its clients tasks of the cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializeAsAny

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.catalogue import DataSpec, path_of
from amalgam.tasks.merging.clients.rules import Rule

if TYPE_CHECKING:
    from torch import nn

    from amalgam.tasks.merging.clients.data import Client
    from amalgam.tasks.merging.clients.graphs import Graph

PROBE_COMMUNITIES, PROBE_NODES, PROBE_LINKS = 5, 100, 0.1  # FED-PUB's proxy graph
NOISE = 256  # images that embeddings of image clients are a mean over


class FederationConfig(Config):
    """A federation under one rule."""

    kind: Literal["graph", "images"]
    data: DataSpec | None
    """npz:PATH of a graph, or labelled images; None: `planted_clusters`."""
    rule: SerializeAsAny[Rule]
    clients: int = Field(ge=2)
    """Parts that the data are divided in."""
    overlap: int = Field(default=0, ge=0)
    """Clients that each of as many fewer parts of a graph makes, each of half its nodes; 0: parts share nothing."""
    skew: float = Field(default=0.3, gt=0)
    """Concentration of the shares of classes among image clients: the smaller, the fewer classes each sees."""
    rounds: int = Field(ge=1)
    epochs: int = Field(default=1, ge=1)
    """Of each client in each round."""
    learning_rate: float = Field(default=0.01, gt=0)
    width: int = Field(default=128, ge=1)
    """Units of each hidden layer."""
    seed: int


def federate(config: FederationConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `results.parquet`: the accuracies of all clients' test examples in the round that validation chooses."""
    import torch

    from amalgam.pipeline.engine.ray.spread import spread
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.tasks.merging.clients.federation import Federation, LocalTraining
    from amalgam.tasks.scoring.results import Network, Result
    from amalgam.tasks.training.epochs import run_epochs

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        clients, network, probe = (_graph if config.kind == "graph" else _images)(config, work.data_root)
    local = LocalTraining(config.rule, network, probe, config.epochs, config.learning_rate, config.seed)
    federation = Federation(clients, local, config.rounds, spread)
    run_epochs(federation, log=work.log, resume=resume_state(work), save=saver(work))
    best = federation.best
    kind = Network(kind="fused", method=type(config.rule).__name__, settings=_settings(config.rule), seed=config.seed)
    found = {
        ("test", "accuracy"): best["test/accuracy"],
        ("test", "last_accuracy"): federation.history[-1]["test/accuracy"],
        ("chosen", "validation_accuracy"): best["validation/accuracy"],
        ("chosen", "round"): best["round"],
    }
    write_results([Result(kind, role, None, metric, value) for (role, metric), value in found.items()], work.out)
    return {**best, "clients": len(clients)}


def _settings(rule: Rule) -> dict[str, Any]:
    from amalgam.tasks.scoring.results import settings_of

    return {name: value for name, value in settings_of(rule).items() if name != "temperature"}


def _graph(config: FederationConfig, root: Path | None) -> "tuple[list[Client], nn.Module, Graph]":
    from amalgam.tasks.merging.clients.data import graph_clients
    from amalgam.tasks.merging.clients.graphs import (
        block_model,
        communities,
        overlapping,
        planted_clusters,
        read_graph,
    )
    from amalgam.tasks.merging.clients.networks import GCN

    graph = planted_clusters(config.seed) if config.data is None else read_graph(path_of(config.data, root))
    count = config.clients // max(1, config.overlap)
    parts = communities(graph, count, config.seed)
    nodes = overlapping(parts, config.overlap, config.seed) if config.overlap else parts
    width = graph.features.shape[1]
    probe = block_model((PROBE_NODES,) * PROBE_COMMUNITIES, PROBE_LINKS, 0.0, width, config.seed)
    network = GCN(width, config.width, int(graph.labels.max()) + 1)
    return list(graph_clients(graph, nodes, config.seed)), network, probe


def _images(config: FederationConfig, root: Path | None) -> "tuple[list[Client], nn.Module, Any]":
    import torch
    from torch import nn

    from amalgam.tasks.data.images import load
    from amalgam.tasks.data.loading import normalise
    from amalgam.tasks.merging.clients.data import skewed_clients

    assert config.data is not None
    images = load(config.data, "train", root)
    pixels = normalise(images.pixels, images.mean, images.std)
    clients = skewed_clients(pixels, images.labels, config.clients, config.skew, config.seed)
    inputs, outputs, width = pixels[0].numel(), len(images.class_names), config.width
    layers = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    return list(clients), nn.Sequential(nn.Flatten(), *layers), torch.randn(NOISE, *pixels.shape[1:])


def check_overlap(config: FederationConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the data can be divided as wanted."""
    if config.overlap and config.clients % config.overlap:
        raise ValueError(f"{config.clients} clients cannot be {config.overlap} of each part: choose a multiple")


FEDERATION = Kind("federation", federate, FederationConfig, check=check_overlap, expect=Expect(30, 20_000))
