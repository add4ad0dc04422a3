"""Laws of what units are worth, and of the methods that weigh them: influence, weighted clusters, random searches."""

import copy

import pytest
import torch
from torch import nn

from amalgam.tasks.fusion import FisherPruning, NeuronInterpolation, PartialOT, TaylorPruning, Transport, fuse
from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.fusion.methods.clustering.kernel_means import distances_to_means, lloyd, stochastic_ward, ward
from amalgam.tasks.fusion.methods.functional import FunctionalCost
from amalgam.tasks.fusion.methods.pruning.influence import influence
from amalgam.tasks.tracing.capture import sites
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import example, mlp, networks, permuted, random_orders

EXACT = {"rtol": 0.0, "atol": 1e-9}


def found_influence(net: nn.Module, x: torch.Tensor, times: int = 1) -> dict[str, torch.Tensor]:
    return influence(net, sites(net, trace(net, x)), [x] * times)


def test_influence_is_the_expected_change_of_the_log_likelihood():
    net, x = networks("mlp_gelu", 1)[0], example("mlp", batch=4)
    hidden = net[:4](x).detach().requires_grad_()
    probabilities = net[4:](hidden).softmax(1).detach()
    changes = []
    for label in range(4):
        (slope,) = torch.autograd.grad(net[4:](hidden).log_softmax(1)[:, label].sum(), hidden)
        changes.append((hidden * slope).detach())
    table = torch.stack(changes, 2)
    wanted = torch.stack([(probabilities[:, None] * part).sum(2).mean(0) for part in (table.abs(), table**2)], 1)
    found = found_influence(net, x.repeat(2000, 1), 4)["2"]
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=1e-5)  # labels are drawn 32,000 times


def test_influence_of_a_number_is_its_squared_share():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = example("mlp", batch=3).repeat(4000, 1)
    wanted = (net[:2](x) * net[2].weight).square().mean(0)
    torch.testing.assert_close(found_influence(net, x)["0"][:, 1], wanted.detach(), rtol=0.1, atol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_influence_does_not_depend_on_scales_of_units_or_on_what_is_trained(frozen):
    net, x = networks("mlp_relu", 1)[0], example("mlp", batch=30)
    twin = copy.deepcopy(net).requires_grad_(not frozen)
    scale = torch.linspace(0.2, 5, 9, dtype=torch.float64)
    with torch.no_grad():
        twin[0].weight.mul_(scale[:, None])
        twin[0].bias.mul_(scale)
        twin[2].weight.div_(scale)
    one, two = found_influence(net, x), found_influence(twin, x)
    for group in one:
        torch.testing.assert_close(one[group], two[group], **EXACT)


@pytest.mark.parametrize("kind", ["cnn", "resnet"])
def test_units_that_nothing_depends_on_have_no_influence(kind):
    net, x = networks(kind, 1)[0], example(kind, batch=6)
    axes = trace(net, x)
    group = axes.groups[-1]
    state = net.state_dict()
    for name, index in axes.parameters_of(group):
        if axes.of[name][index].reads:
            state[name].movedim(index, 0)[: axes.of[name][index].repeat] = 0.0
    found = found_influence(net, x)
    assert set(found) == set(axes.groups) and all((value >= 0).all() for value in found.values())
    assert not found[group][0].any() and found[group][1:].any(1).sum() > len(found[group]) / 2


@pytest.mark.parametrize("method", [TaylorPruning, FisherPruning])
@pytest.mark.parametrize("count", [1, 2])
def test_pruning_by_influence_deletes_what_the_prediction_does_not_need(method, count):
    members, x = [mlp("gelu", (10,)).double().eval() for _ in range(count)], example("mlp", batch=60)
    whole = [copy.deepcopy(net) for net in members]
    with torch.no_grad():
        for net, same in zip(members, whole, strict=True):
            net[3].weight[:, ::2] = same[3].weight[:, ::2] = 0.0
            net[0].weight[::2] *= 100  # large and varying, and of no use
    fused = fuse(members, method(width=count / 2), x, calibration=[x], refit=False)
    torch.testing.assert_close(fused(x), sum(net(x) for net in members) / count, **EXACT)


def points(num: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inertia(gram: torch.Tensor, labels: torch.Tensor, mass: torch.Tensor | None = None) -> float:
    nearest = distances_to_means(gram, labels, mass=mass).gather(1, labels[:, None])[:, 0]
    return float((nearest if mass is None else nearest * mass).sum())


@pytest.mark.parametrize("seed", range(3))
def test_a_random_search_is_never_worse_than_ward_and_more_of_it_never_worse_than_less(seed):
    x = points(seed=seed)
    gram = x @ x.T
    found = [inertia(gram, stochastic_ward(gram, 7, restarts, seed)) for restarts in (0, 5, 30)]
    assert found[0] <= inertia(gram, ward(gram, 7)) and found[1] <= found[0] and found[2] <= found[1]
    assert len(stochastic_ward(gram, 30, 5, seed).unique()) == 30
    assert sum(inertia(gram, stochastic_ward(gram, 7, 30, s)) < inertia(gram, lloyd(gram, ward(gram, 7))) - 1e-9
               for s in range(3)) >= 1  # fmt: skip


def test_weighted_means_are_those_of_repeated_points():
    x, labels = points(), torch.arange(30) % 4
    times = torch.arange(30) % 3 + 1
    repeated, again = x.repeat_interleave(times, 0), labels.repeat_interleave(times)
    wanted = distances_to_means(repeated @ repeated.T, again)
    found = distances_to_means(x @ x.T, labels, mass=times.double())
    torch.testing.assert_close(found.repeat_interleave(times, 0), wanted, **EXACT)
    moved = lloyd(x @ x.T, labels, times.double())
    assert inertia(x @ x.T, moved, times.double()) < inertia(x @ x.T, labels, times.double())


def test_interpolated_units_are_means_weighted_by_importance():
    net, x = networks("mlp_gelu", 1)[0], example("mlp", batch=40)
    worth = found_influence(net, x)["0"][:, 1]
    fused = fuse([net], NeuronInterpolation(width=0.3), x, calibration=[x], calibration_role="matching")
    gram = (h := net[:2](x).detach()).T @ h / len(h)
    labels = lloyd(gram, ward(gram, 3), worth / worth.mean())
    for cluster, row in enumerate(fused[0].weight):
        mine = labels == cluster
        wanted = (worth[mine][:, None] * net[0].weight[mine]).sum(0) / worth[mine].sum()
        torch.testing.assert_close(row, wanted, rtol=1e-5, atol=1e-5)  # the least importance is 1e-6 of the mean


PLANS = [("exact", "uniform"), ("entropic", "magnitude"), ("unbalanced", "fisher"), ("exact", "spread")]
each_plan = pytest.mark.parametrize(("plan", "mass"), PLANS)


@pytest.mark.parametrize("kind", ["mlp_gelu", "resnet"])
@pytest.mark.parametrize("alpha", [0.0, 0.33])
def test_equal_masses_of_equal_widths_are_transported_as_units_are_assigned(kind, alpha):
    members, x = networks(kind, 2), example(kind)
    one, two = (fuse(members, method(alpha=alpha), x, (0.3, 0.7)) for method in (PartialOT, Transport))
    torch.testing.assert_close(one(x), two(x), **EXACT)


@each_plan
def test_transport_keeps_the_end_point_laws_for_members_of_different_widths(plan, mass):
    torch.manual_seed(0)
    members = [mlp(widths=widths).double().eval() for widths in ((12, 10), (8, 7), (9, 9))]
    x = example("mlp", batch=30)
    whole, narrow, none = (
        fuse(members, Transport(alpha=alpha, plan=plan, mass=mass), x, weights, calibration=[x], refit=False)
        for alpha, weights in ((1.0, (0.2, 0.5, 0.3)), (0.4, (0, 1, 0)), (0.0, None))
    )
    ensemble = sum(share * net(x) for share, net in zip((0.2, 0.5, 0.3), members, strict=True))
    torch.testing.assert_close(whole(x), ensemble, **EXACT)
    torch.testing.assert_close(narrow(x), members[1](x), **EXACT)
    assert [layer.out_features for layer in none if isinstance(layer, nn.Linear)] == [8, 7, 4]
    assert narrow[0].out_features == 8 + round(0.4 * 12) + round(0.4 * 9)


@pytest.mark.parametrize("plan", ["exact", "entropic", "unbalanced"])
def test_a_permuted_copy_is_transported_onto_itself(plan):
    net, x = networks("cnn", 1)[0], example("cnn")
    axes = trace(net, x)
    twin = permuted(net, axes, random_orders(axes, net, 1))
    for alpha in (0.0, 0.5):
        fused = fuse([net, twin], Transport(alpha=alpha, plan=plan, mass="magnitude"), x)
        torch.testing.assert_close(fused(x), net(x), **EXACT)


def test_the_functional_cost_is_what_merging_two_units_changes_in_what_reads_them():
    members, x = networks("mlp_gelu", 2), example("mlp", batch=50)
    axes, cost = trace(members[0], x), ActivationCost(2)
    hidden = [net[:2](x).detach() for net in members]
    cost.update([{"0": h, "2": net[:4](x).detach()} for h, net in zip(hidden, members, strict=True)])
    found = FunctionalCost.of(cost, axes, [net.state_dict() for net in members]).pair("0", 0, 1)
    for i, j in ((0, 0), (3, 7), (8, 1)):
        mean = (hidden[0][:, i] + hidden[1][:, j]) / 2
        changes = [
            (mean - h[:, unit])[:, None] * net[2].weight[:, unit]
            for h, net, unit in zip(hidden, members, (i, j), strict=True)
        ]
        wanted = sum(change.detach().var(0, correction=0).sum() for change in changes)
        assert float(found[i, j]) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("plan", ["exact", "entropic", "unbalanced"])
@pytest.mark.parametrize("count", [3, 7, 10, 49])
def test_masses_whose_sum_is_one_up_to_rounding_are_transported(plan, count):
    generator = torch.Generator().manual_seed(count)
    own, other = torch.full((count,), 0.1).double(), torch.rand(count, generator=generator).double()
    cost = torch.cdist(points(count), points(count, 1))
    for alpha in (0.0, 1e-3, 0.7):
        units, places = Transport(alpha=alpha, plan=plan).joined(cost, own, other)
        assert len(units) == len(places) == round((1 - alpha) * count) and places.max() < count
