"""Laws of couplings that delete, cluster and transport units, of one network and of many."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering
from torch import nn

from amalgam.tasks.fusion import METHODS, Assignment, fuse
from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.merging import merge
from amalgam.tasks.fusion.methods import Lloyd, MagnitudePruning, SpreadPruning, TransportedPruning, Ward
from amalgam.tasks.fusion.methods.clustering.kernel_means import constrained, distances_to_means, lloyd, scales, ward
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, mlp, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
RESIZING = [method for method in METHODS if "width" in method.model_fields]
EACH = [("resnet", method) for method in RESIZING] + [(kind, Ward) for kind in NETWORKS if kind != "resnet"]
"""Every method on the network that has most kinds of layers, and one method on every other network."""


def points(num: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inertia(x: torch.Tensor, labels: torch.Tensor) -> float:
    return sum(float((x[labels == c] - x[labels == c].mean(0)).square().sum()) for c in labels.unique())


@pytest.mark.parametrize(("kind", "method"), EACH)
def test_keeping_all_units_of_all_members_is_the_ensemble(kind, method):
    members, x = networks(kind, 2), example(kind, batch=16)
    fused = fuse(members, method(width=2.0), x, (0.3, 0.7), calibration=[x])
    torch.testing.assert_close(fused(x), 0.3 * members[0](x) + 0.7 * members[1](x), **EXACT)


@pytest.mark.parametrize("method", RESIZING)
def test_every_group_has_the_width_it_was_given(method):
    members, x = networks("mlp_gelu", 3), example("mlp", batch=40)
    fused = fuse(members, method(width=1.4), x, calibration=[x])
    assert [layer.out_features for layer in fused if isinstance(layer, nn.Linear)] == [13, 10, 4]


@pytest.mark.parametrize("method", [Ward, Lloyd])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_clustering_duplicates_of_one_network_is_exact(method, activation):
    torch.manual_seed(0)
    small, big, x = mlp(activation), mlp(activation, (18, 14)), example("mlp", batch=60)
    copies = [torch.arange(6), torch.arange(9).repeat(2), torch.arange(7).repeat(2), torch.arange(4)]
    layers = [[layer for layer in net if isinstance(layer, nn.Linear)] for net in (small, big)]
    for (one, two), read, made in zip(zip(*layers, strict=True), copies, copies[1:], strict=False):
        two.weight.data = one.weight.data[made][:, read] / (read.bincount()[read])
        two.bias.data = one.bias.data[made]
    big, small = big.double().eval(), small.double().eval()
    fused = fuse([big], method(width=0.5), x, calibration=[x], refit=False)
    torch.testing.assert_close(fused(x), small(x), rtol=0, atol=1e-7)  # `big` was made in float32


def test_scaled_clusters_of_proportional_relu_units_are_exact():
    torch.manual_seed(0)
    net, x = mlp("relu", (8,)).double().eval(), example("mlp", batch=60)
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = 3 * net[0].weight[:4], 3 * net[0].bias[:4]
    labels = torch.arange(4).repeat(2)
    cost = ActivationCost(1, within=True)
    cost.update([{"0": net[:2](x).detach()}])
    coupling = Coupling((labels,), (scales(cost.gram("0"), labels),))
    merged = merge([net], trace(net, x), {"0": coupling}, (1.0,))
    torch.testing.assert_close(merged(x), net(x), **EXACT)


def test_ward_finds_the_clusters_of_scikit_learn():
    x = points()
    for num_clusters in (1, 7, 25, 40):
        wanted = torch.from_numpy(AgglomerativeClustering(num_clusters).fit_predict(x.numpy()))
        assert inertia(x, ward(x @ x.T, num_clusters)) == pytest.approx(inertia(x, wanted), abs=1e-9)


def test_distances_to_means_are_those_of_the_points():
    x, labels = points(), torch.arange(40) % 5
    means = torch.stack([x[labels == c].mean(0) for c in range(5)])
    torch.testing.assert_close(distances_to_means(x @ x.T, labels), torch.cdist(x, means).square())


@pytest.mark.parametrize("seed", range(3))
def test_lloyd_never_spreads_clusters_and_stops_at_nearest_means(seed):
    x = points(seed=seed)
    start = torch.arange(40) % 6
    labels = lloyd(x @ x.T, start)
    assert inertia(x, labels) < inertia(x, start)
    means = torch.stack([x[labels == c].mean(0) for c in labels.unique()])
    assert torch.equal(torch.cdist(x, means).argmin(1), labels)


def test_constrained_clusters_hold_one_unit_of_each_member():
    x, counts = points(), (15, 12, 13)
    labels = constrained(x @ x.T, ward(x @ x.T, 16), 16, counts)
    for part in labels.split(counts):
        assert len(part.unique()) == len(part)
    with pytest.raises(ValueError, match="width"):
        constrained(x @ x.T, ward(x @ x.T, 10), 10, counts)


def test_two_permuted_copies_cluster_into_their_common_units():
    x = points(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    both = torch.cat([x, x[order]])
    labels = constrained(both @ both.T, ward(both @ both.T, 12), 12, (12, 12))
    matched = linear_sum_assignment(torch.cdist(x, x[order]).numpy())[1]
    assert torch.equal(labels[:12], labels[12:][torch.from_numpy(matched)])


@pytest.mark.parametrize("method", [MagnitudePruning, SpreadPruning, TransportedPruning])
def test_pruning_units_that_do_nothing_is_exact(method):
    torch.manual_seed(0)
    net, x = mlp("relu", (10,)).double().eval(), example("mlp", batch=60)
    with torch.no_grad():
        net[0].weight[::2], net[0].bias[::2], net[3].weight[:, ::2] = 0.0, 0.0, 0.0
    fused = fuse([net], method(width=0.5), x, calibration=[x], refit=False)
    if method is not TransportedPruning:  # transport fills the kept units evenly, with what does nothing too
        torch.testing.assert_close(fused(x), net(x), **EXACT)
    fitted = fuse([net], method(width=0.5), x, calibration=[x])
    assert (fitted(x) - net(x)).square().mean() <= (fused(x) - net(x)).square().mean() + 1e-12


@pytest.mark.parametrize("method", [Ward, SpreadPruning])
def test_methods_that_read_activations_ask_for_images(method):
    with pytest.raises(ValueError, match="calibration"):
        fuse(networks("mlp_gelu", 2), method(), example("mlp"))


def test_assignment_has_no_width():
    with pytest.raises(ValueError, match="width"):
        Assignment(width=2.0)
