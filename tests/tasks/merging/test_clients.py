"""Federations: graphs divided without loss, masks whose penalties have gradients, rounds that go on where they were."""

import pytest
import torch
from torch import nn

from amalgam.tasks.merging.clients.data import graph_clients, skewed_clients
from amalgam.tasks.merging.clients.federation import Federation, LocalTraining
from amalgam.tasks.merging.clients.graphs import (
    block_model,
    communities,
    node_parts,
    overlapping,
    planted_clusters,
    read_graph,
)
from amalgam.tasks.merging.clients.networks import GCN, Masked, distance
from amalgam.tasks.merging.clients.rules import FedAvg, FedProx, FedPub, Local

GRAPH = block_model((12, 10, 8), 0.5, 0.05, 5, seed=0)


def test_layers_average_by_the_normalised_adjacency():
    dense = torch.eye(30)
    for a, b in GRAPH.edges.tolist():
        dense[a, b] = dense[b, a] = 1
    scale = dense.sum(1).rsqrt()
    torch.testing.assert_close(GRAPH.adjacency.to_dense(), scale[:, None] * dense * scale)
    network = GCN(5, 4, 3)
    hidden = torch.relu(GRAPH.adjacency.to_dense() @ network.first(GRAPH.features))
    expected = torch.relu(GRAPH.adjacency.to_dense() @ network.second(hidden))
    torch.testing.assert_close(network(GRAPH), network.classifier(expected))


def test_the_order_of_nodes_does_not_matter_to_a_network():
    order, network = torch.randperm(30, generator=torch.Generator().manual_seed(0)), GCN(5, 4, 3)
    torch.testing.assert_close(network(GRAPH.part(order)), network(GRAPH)[order])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_parts_hold_every_node_once_and_are_of_equal_size(count):
    parts = communities(GRAPH, count, seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(30))
    assert max(map(len, parts)) <= -(-30 // count) + 3


def test_parts_cut_fewer_links_than_random_ones():
    kept = sum(len(GRAPH.part(part).edges) for part in communities(GRAPH, 3, seed=0))
    drawn = torch.randperm(30, generator=torch.Generator().manual_seed(0)).split(10)
    assert kept > 1.5 * sum(len(GRAPH.part(part).edges) for part in drawn)


def test_overlapping_clients_have_half_the_nodes_of_their_part():
    parts = [torch.arange(10), torch.arange(10, 30)]
    nodes = overlapping(parts, 3, seed=0)
    assert [len(each) for each in nodes] == [5, 5, 5, 10, 10, 10]
    assert all(set(each.tolist()) <= set(parts[place // 3].tolist()) for place, each in enumerate(nodes))


def test_shared_nodes_play_one_part_at_all_clients():
    own = [torch.arange(20), torch.arange(5, 30)]
    clients = graph_clients(GRAPH, own, seed=0)
    tested = [set(nodes[client.parts[2]].tolist()) for nodes, client in zip(own, clients, strict=True)]
    trained = [set(nodes[client.parts[0]].tolist()) for nodes, client in zip(own, clients, strict=True)]
    assert not (tested[0] | tested[1]) & (trained[0] | trained[1])
    assert sum(map(len, node_parts(GRAPH, 0))) == 30


def test_files_that_hold_no_graph_are_refused(tmp_path):
    for content in (None, b"nonsense"):
        if content:
            (tmp_path / "g.npz").write_bytes(content)
        with pytest.raises(ValueError, match="num_nodes"):
            read_graph(tmp_path / "g.npz")


def masked(seed=0):
    torch.manual_seed(seed)
    return Masked(nn.Linear(4, 3))


def test_both_penalties_have_gradients():
    learner = masked()
    received = {name: p.detach() + 0.1 for name, p in learner.network.named_parameters()}
    learner.penalty(0.5, 0.0, received).backward()
    assert all(torch.equal(m.grad, torch.full_like(m, 0.5)) for m in learner.masks.values())
    learner.zero_grad()
    learner.penalty(0.0, 2.0, received).backward()
    weights = list(learner.network.parameters())
    size = torch.cat([p.grad.flatten() for p in weights]).norm()
    assert size == pytest.approx(2.0, rel=1e-5), "a norm has a gradient of length 1"
    assert distance(learner.network, dict(learner.network.named_parameters())) == 0


def test_masks_multiply_weights_and_are_pruned_below_the_threshold():
    learner, x = masked(), torch.randn(6, 4)
    torch.testing.assert_close(learner(x), learner.network(x))
    with torch.no_grad():
        learner.masks["weight"][0] = 0.5
        learner.masks["weight"][1] = 1e-4
    effective = learner.effective(1e-3)["weight"]
    torch.testing.assert_close(effective[0], 0.5 * learner.network.weight[0])
    assert not effective[1].any() and effective[2].equal(learner.network.weight[2])


def states(count=3):
    return [{n: p.detach() for n, p in GCN(5, 4, 3).named_parameters()} for _ in range(count)]


def test_servers_merge_as_their_rules_say():
    sent, sizes = states(), [1, 2, 5]
    embeddings = [torch.randn(4, dtype=torch.float64) for _ in sent]
    assert Local().merged(sent, sizes, embeddings) == sent
    mean = sum(size / 8 * state["first.weight"] for size, state in zip(sizes, sent, strict=True))
    for one in FedAvg().merged(sent, sizes, embeddings):
        torch.testing.assert_close(one["first.weight"], mean)
    uniform = FedPub(temperature=0).merged(sent, sizes, embeddings)
    torch.testing.assert_close(uniform[1]["first.weight"], sum(s["first.weight"] for s in sent) / 3)
    own = FedPub(temperature=1e4).merged(sent, sizes, embeddings)
    torch.testing.assert_close(own[2]["first.weight"], sent[2]["first.weight"])


def federation(rule, rounds=3, seed=0, graph=None, clients=3, width=6, **settings):
    graph = GRAPH if graph is None else graph
    torch.manual_seed(seed)
    network = GCN(graph.features.shape[1], width, 3)
    probe = block_model((20,) * 3, 0.2, 0.0, graph.features.shape[1], seed)
    local = LocalTraining(rule, network, probe, epochs=1, learning_rate=0.01, seed=seed)
    return Federation(graph_clients(graph, communities(graph, clients, seed), seed), local, rounds, **settings)


def finished(run):
    while not run.is_finished:
        run.advance()
    return run


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rule", [Local(), FedAvg(), FedProx(), FedPub()])
def test_a_federation_goes_on_after_a_round_to_the_same_numbers(rule, tmp_path):
    whole, cut = finished(federation(rule, 4)), federation(rule, 2)
    torch.save(finished(cut).state(), tmp_path / "state.pt")
    resumed = federation(rule, 4)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert finished(resumed).history == whole.history
    for one, other in zip(resumed.states, whole.states, strict=True):
        assert all(torch.equal(one["received"][n], other["received"][n]) for n in one["received"])


@pytest.mark.usefixtures("one_thread")
def test_how_clients_are_spread_does_not_matter():
    here = finished(federation(FedPub(), 2))
    backwards = finished(federation(FedPub(), 2, spread=lambda f, items: [f(one) for one in items[::-1]][::-1]))
    assert here.history == backwards.history


def test_masks_stay_with_their_clients():
    run = finished(federation(FedPub(), 3))
    assert all(
        "first.weight" in state["received"] and not any("mask" in n for n in state["received"]) for state in run.states
    )
    masks = [state["learner"]["masks.first/weight"] for state in run.states]
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.slow
def test_with_two_planted_clusters_personal_merges_beat_one_for_all():
    graph = planted_clusters(0)
    one, personal = (
        finished(federation(rule, 40, graph=graph, clients=6, width=16)).best["test/accuracy"]
        for rule in (FedAvg(), FedPub(temperature=20, sparsity=0))
    )
    assert personal > one + 0.05


def test_image_clients_have_few_classes_and_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    images = torch.randn(300, 8, generator=generator) + 3 * nn.functional.one_hot(labels, 8)
    clients = skewed_clients(images, labels, 4, 0.2, seed=0)
    places = torch.cat([torch.cat(client.parts) for client in clients])
    assert len(places) == len(set(places.tolist()))
    shares = [torch.bincount(labels[torch.cat(c.parts)], minlength=5).double() for c in clients]
    assert all((share / share.sum()).max() > 0.3 for share in shares)
    torch.manual_seed(0)
    local = LocalTraining(FedAvg(), nn.Linear(8, 5), images[:16], epochs=2, learning_rate=0.05, seed=0)
    history = finished(Federation(clients, local, 8)).history
    assert history[-1]["test/accuracy"] > 0.7
