"""Laws of fusion that hold for every network, every share alpha and any number of members (method page, section 12).

Networks are float64 so that an exact law can be told from a close one: 1e-9 is far above rounding, far below any error.
"""

import copy
import itertools
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from amalgam.tasks.fusion import Assignment, Identity, Method, PartialOT, fuse
from amalgam.tasks.fusion.cost import ActivationCost, Universe
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.descent.assignment import cheapest_pairs
from amalgam.tasks.fusion.descent.costs import costs_of
from amalgam.tasks.fusion.descent.products import PairProducts
from amalgam.tasks.fusion.gauge import balanced
from amalgam.tasks.fusion.matching import identity, objective
from amalgam.tasks.fusion.merging import merge, support
from amalgam.tasks.fusion.methods import Members
from amalgam.tasks.fusion.methods.functional import matching_costs
from amalgam.tasks.fusion.rebuild.resizing import resize
from amalgam.tasks.fusion.unit_map import unit_maps
from amalgam.tasks.tracing.capture import as_rows, capture, sites
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, mlp, networks, permuted, random_orders

EXACT = {"rtol": 0.0, "atol": 1e-9}
ALPHAS = (0.0, 0.33, 0.9, 1.0)  # 0.33 and 0.9 leave no whole number of units: rounding must stay exact
each_network = pytest.mark.parametrize("kind", NETWORKS)
each_count = pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])


def shares(count: int) -> tuple[float, ...]:
    return {2: (0.3, 0.7), 3: (0.2, 0.5, 0.3)}[count]


@each_network
@each_count
def test_alpha_one_is_the_logit_ensemble(kind, count):
    members, x = networks(kind, count), example(kind)
    fused = fuse(members, PartialOT(alpha=1.0), x, shares(count))
    ensemble = sum(share * member(x) for share, member in zip(shares(count), members, strict=True))
    torch.testing.assert_close(fused(x), ensemble, **EXACT)


@each_network
@each_count
@pytest.mark.parametrize("alpha", ALPHAS)
def test_all_weight_on_one_member_is_that_member(kind, count, alpha):
    members, x = networks(kind, count), example(kind)
    for chosen in range(count):
        weights = [float(k == chosen) for k in range(count)]
        fused = fuse(members, PartialOT(alpha=alpha), x, weights)
        torch.testing.assert_close(fused(x), members[chosen](x), **EXACT)


@each_network
@each_count
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_member_fused_with_permuted_copies_is_itself(kind, count, alpha):
    member, x = networks(kind, 1)[0], example(kind)
    axes = trace(member, x)
    copies = [permuted(member, axes, random_orders(axes, member, seed)) for seed in range(count - 1)]
    torch.testing.assert_close(copies[0](x), member(x), **EXACT)
    for others in ([member] * (count - 1), copies):
        fused = fuse([member, *others], PartialOT(alpha=alpha), x, shares(count))
        torch.testing.assert_close(fused(x), member(x), **EXACT)


@each_network
@each_count
@pytest.mark.parametrize("alpha", ALPHAS)
def test_widths_are_the_matched_units_plus_everyone_left_alone(kind, count, alpha):
    members, x = networks(kind, count), example(kind)
    axes = trace(members[0], x)
    fused = fuse(members, PartialOT(alpha=alpha), x)
    for group, n in axes.sizes(members[0].state_dict()).items():
        k = round((1 - alpha) * n)
        width = n if group == "output" else k + count * (n - k)
        assert axes.sizes(fused.state_dict())[group] == width


@each_count
@pytest.mark.parametrize("cost", ["weights", "activations", "both"])
def test_members_of_different_widths_fuse(count, cost):
    torch.manual_seed(0)
    members = [mlp(widths=(9 + k, 7 - k)).double().eval() for k in range(count)]
    x = example("mlp")
    for chosen in range(count):
        weights = [float(k == chosen) for k in range(count)]
        fused = fuse(members, PartialOT(alpha=0.4, cost=cost), x, weights, calibration=[x])
        torch.testing.assert_close(fused(x), members[chosen](x), **EXACT)


@each_network
@each_count
@pytest.mark.parametrize("cost", ["weights", "both"])
def test_numbering_of_units_does_not_matter(kind, count, cost):
    members, x = networks(kind, count), example(kind, batch=8)
    axes = trace(members[0], x)
    renumbered = [permuted(m, axes, random_orders(axes, m, seed)) for seed, m in enumerate(members)]
    for alpha in (0.0, 0.33):
        method = PartialOT(alpha=alpha, cost=cost)
        fused, again = (fuse(nets, method, x, shares(count), calibration=[x]) for nets in (members, renumbered))
        torch.testing.assert_close(fused(x), again(x), **EXACT)


@each_network
def test_swapping_two_members_with_their_weights_changes_nothing(kind):
    (a, b), x = networks(kind, 2), example(kind)
    one, two = (
        fuse([a, b], PartialOT(alpha=0.33), x, (0.3, 0.7)),
        fuse([b, a], PartialOT(alpha=0.33), x, (0.7, 0.3)),
    )
    torch.testing.assert_close(one(x), two(x), **EXACT)


@each_network
@each_count
@pytest.mark.parametrize("cost", ["weights", "activations", "both", "functional"])
def test_the_objective_never_rises_and_the_descent_ends_in_a_fixed_point(kind, count, cost):
    members, x = networks(kind, count), example(kind, batch=8)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    activations = ActivationCost(count)
    activations.update([as_rows(capture(m, sites(m, axes), x)) for m in members])
    for alpha in (0.0, 0.33):
        method = PartialOT(alpha=alpha, cost=cost, seed=3)
        matching = method(axes, states, activations)
        assert all(b <= a + 1e-9 * abs(a) for a, b in zip(matching.objective, matching.objective[1:], strict=False))
        again = method(axes, states, activations, start=matching.universe)
        costs = matching_costs(Members(axes, states, activations), cost)
        assert objective(costs, again.universe) == pytest.approx(matching.objective[-1], rel=1e-9)


@each_network
def test_the_same_seed_gives_the_same_network(kind):
    members, x = networks(kind, 3), example(kind)
    one, two = (fuse(members, PartialOT(alpha=0.33, seed=5), x) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@each_network
@each_count
def test_structural_zeros_are_zero_known_and_counted_by_the_formula(kind, count):
    members, x = networks(kind, count), example(kind)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    sizes, previous = axes.sizes(states[0]), 0
    for alpha in (0.0, 0.33, 0.5, 0.9, 1.0):
        couplings = PartialOT(alpha=alpha)(axes, states).couplings()
        fused = merge(members, axes, couplings, shares(count))
        allowed_entries, state = support(axes, couplings, fused), fused.state_dict()
        nonzero = 0
        for name, allowed in allowed_entries.items():
            entries = [axis for axis in axes.of[name] if axis]
            (k, alone), (k_in, alone_in) = (
                (k := round((1 - alpha) * sizes[axis.group]), sizes[axis.group] - k) for axis in entries
            )
            expected = k * (k_in + count * alone_in) + count * alone * k_in + count * alone * alone_in
            positions = allowed[0, 0].numel()
            assert int(allowed.sum()) == expected * entries[0].repeat * entries[1].repeat * positions
            assert int(state[name].count_nonzero()) == int(allowed.sum())
            assert not state[name][~allowed].any()
            nonzero += int(allowed.sum())
        assert nonzero > previous
        previous = nonzero


def test_hidden_parameters_grow_as_one_plus_two_alpha_minus_alpha_squared():
    members = [mlp("gelu", (100, 100)).double() for _ in range(2)]
    axes, states = trace(members[0], example("mlp")), [m.state_dict() for m in members]
    for alpha in (0.2, 0.4, 0.8):
        couplings = PartialOT(alpha=alpha)(axes, states).couplings()
        allowed = support(axes, couplings, merge(members, axes, couplings, (0.5, 0.5)))["2.weight"]
        assert int(allowed.sum()) / 100**2 == pytest.approx(1 + 2 * alpha - alpha**2, abs=1e-12)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_merging_duplicate_units_of_one_network_is_exact(activation):
    torch.manual_seed(0)
    small, x = mlp(activation).double().eval(), example("mlp")
    axes = trace(small, x)
    copies = {"0": torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8]), "2": torch.arange(7).repeat(2)}
    doubled = {}
    for name, tensor in small.state_dict().items():
        for index, axis in enumerate(axes.of[name]):
            if axis and axis.group != "output":
                duplicates = copies[axis.group]
                counts = torch.bincount(duplicates)[duplicates].double() if axis.reads else torch.ones(len(duplicates))
                shape = [-1 if i == index else 1 for i in range(tensor.ndim)]
                tensor = tensor.index_select(index, duplicates) / counts.reshape(shape)
        doubled[name] = tensor
    big = resize(small, doubled)
    torch.testing.assert_close(big(x), small(x), **EXACT)
    merged = merge([big], axes, {group: Coupling((index,)) for group, index in copies.items()}, (1.0,))
    torch.testing.assert_close(merged(x), small(x), **EXACT)


@each_network
@each_count
def test_merge_after_unmerge_is_the_identity(kind, count):
    members, x = networks(kind, count), example(kind)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    couplings = PartialOT(alpha=0.33)(axes, states).couplings()
    for group, maps in unit_maps(couplings, shares(count), 5).items():
        if group != "output":
            product = sum(m.merge @ m.unmerge for m in maps)
            torch.testing.assert_close(product, torch.eye(couplings[group].width, dtype=torch.float64), **EXACT)


@each_network
def test_float32_agrees_with_float64(kind):
    members, x = networks(kind, 2), example(kind)
    singles = [copy.deepcopy(m).float() for m in members]
    fused, single = fuse(members, PartialOT(alpha=0.33), x), fuse(singles, PartialOT(alpha=0.33), x.float())
    assert single(x.float()).dtype == torch.float32
    torch.testing.assert_close(single(x.float()).double(), fused(x), rtol=1e-4, atol=1e-4)


@each_network
def test_members_are_left_untouched(kind):
    members, x = networks(kind, 2), example(kind)
    before = [copy.deepcopy(m.state_dict()) for m in members]
    fuse(members, PartialOT(alpha=0.33, cost="both"), x, calibration=iter([x, x]))
    for member, state in zip(members, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in member.state_dict().items())


@pytest.mark.parametrize("price", [None, -1.0, 0.5, 9.0])
@pytest.mark.parametrize("shape", [(20, 20), (30, 20)])
@pytest.mark.parametrize("levels", [0, 3], ids=["distinct", "ties"])
def test_cheapest_pairs_cost_what_partial_optimal_transport_costs(levels, shape, price):
    draw = np.random.default_rng(0)
    cost = draw.integers(0, levels, shape).astype(float) if levels else draw.random(shape)
    masses = [np.full(n, 1 / 20) for n in shape]
    for k in (1, 7, 15, 20):
        rows, columns = cheapest_pairs(cost, k, price)
        assert len(set(rows)) == len(set(columns)) == k
        plan = ot.partial.partial_wasserstein(*masses, cost, m=k / 20)
        assert cost[rows, columns].sum() / 20 == pytest.approx((plan * cost).sum(), abs=1e-9)


def test_one_hidden_layer_at_alpha_zero_is_the_hungarian_optimum():
    torch.manual_seed(0)
    members, x = [mlp(widths=(12,)).double() for _ in range(2)], example("mlp")
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    units = [torch.cat([s["0.weight"], s["0.bias"][:, None], s["3.weight"].T], 1) for s in states]
    rows, columns = linear_sum_assignment(torch.cdist(*units).square().numpy())
    matched = Assignment()(axes, states).universe.matched("0")
    assert set(zip(*matched.tolist(), strict=True)) == set(zip(rows.tolist(), columns.tolist(), strict=True))


class FirstHalf(Method):
    """The method that the README adds: match the first half of every group as it stands."""

    def match(self, members):
        matching = identity(members.axes, members.states)
        half = {group: size // 2 for group, size in matching.universe.num_matched.items()}
        return replace(matching, universe=replace(matching.universe, num_matched=half))


@each_network
@each_count
@pytest.mark.parametrize("kind_of_method", [Identity, Assignment, PartialOT, FirstHalf])
def test_every_method_gives_back_the_member_that_has_all_the_weight(kind, count, kind_of_method):
    members, x = networks(kind, count), example(kind)
    method = kind_of_method(alpha=0.3) if kind_of_method is PartialOT else kind_of_method()
    weights = [0.0] * (count - 1) + [1.0]
    torch.testing.assert_close(fuse(members, method, x, weights)(x), members[-1](x), **EXACT)


def test_a_method_that_overrides_the_call_itself_still_works():
    class Called(Method):
        def __call__(self, axes, states, activations=None, start=None):
            return identity(axes, states)

    members, x = networks("cnn", 2), example("cnn")
    torch.testing.assert_close(fuse(members, Called(), x, (0.0, 1.0))(x), members[1](x))


def test_naive_averaging_is_the_mean_of_the_parameters():
    (a, b), x = networks("cnn", 2), example("cnn")
    fused = fuse([a, b], Identity(), x, (0.25, 0.75)).state_dict()
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(fused[name], 0.25 * tensor + 0.75 * b.state_dict()[name])


def test_streamed_activation_costs_are_the_distances_of_all_rows_at_once():
    rows = [{"g": torch.randn(50, n, generator=torch.Generator().manual_seed(n))} for n in (4, 6)]
    cost = ActivationCost(2)
    for start in range(0, 50, 7):
        cost.update([{"g": member["g"][start : start + 7]} for member in rows])
    expected = torch.cdist(rows[0]["g"].T.double(), rows[1]["g"].T.double()).square() / 50
    torch.testing.assert_close(cost.pair("g", 0, 1), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cost.pair("g", 1, 0), expected.T, rtol=1e-5, atol=1e-6)


@each_network
def test_a_slot_costs_the_sum_of_the_distances_within_it(kind):
    members = networks(kind, 4)
    axes, states = trace(members[0], example(kind)), [m.state_dict() for m in members]
    universe = PartialOT(alpha=0.3)(axes, states).universe
    costs = costs_of(axes, states, None, weights=True)
    for group, slots in universe.slots.items():
        visit = costs.visit(group, universe)
        rows = torch.stack([row[units] for row, units in zip(visit.rows, slots, strict=True)])
        rest = torch.stack([norm[units] for norm, units in zip(visit.norms, slots, strict=True)]) - rows.square().sum(2)
        distances = sum(
            (rows[a] - rows[b]).square().sum(1) + rest[a] + rest[b] for a, b in itertools.combinations(range(4), 2)
        )
        torch.testing.assert_close(visit.within(slots, range(4)), distances, rtol=1e-9, atol=1e-9)
        place = torch.arange(slots.shape[1])
        torch.testing.assert_close(visit.slots(slots, 2, (0, 1, 3))[slots[2], place], distances, rtol=1e-9, atol=1e-9)


@each_network
def test_products_kept_from_visit_to_visit_give_the_costs_of_a_first_visit(kind):
    members = networks(kind, 2)
    axes, states = trace(members[0], example(kind)), [m.state_dict() for m in members]
    costs = costs_of(axes, states, None, weights=True)
    products, draw = PairProducts(costs.weights), torch.Generator().manual_seed(0)
    sizes = axes.sizes_of_all(states)
    slots = {group: torch.arange(counts[0]).repeat(2, 1) for group, counts in sizes.items()}
    for round_ in range(6):
        moved = [group for number, group in enumerate(sizes) if round_ == 5 or number % 2 == round_ % 2]
        for group in moved:  # a few units, and in the end all
            few = torch.randperm(sizes[group][0], generator=draw)[: None if round_ == 5 else 3]
            slots[group] = slots[group].clone()
            slots[group][1, few] = slots[group][1, few.roll(1)]
        universe = Universe(slots, {group: counts[0] - round_ % 3 for group, counts in sizes.items()})
        for group in sizes:
            kept, fresh = costs.visit(group, universe, products), costs.visit(group, universe)
            found, expected = (visit.slots(slots[group], 1, [0]) for visit in (kept, fresh))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp_relu", "mlp_gelu", "cnn"])
@each_count
def test_repair_finds_nothing_to_change_where_fusion_is_exact(kind, count):
    members, x = networks(kind, count), example(kind, batch=8)
    ensemble = sum(share * member(x) for share, member in zip(shares(count), members, strict=True))
    fused = fuse(members, PartialOT(alpha=1.0), x, shares(count), calibration=[x], refit=False)
    torch.testing.assert_close(fused(x), ensemble, **EXACT)
    one = fuse(members, PartialOT(alpha=0.33), x, [1.0] + [0.0] * (count - 1), calibration=[x], refit=False)
    torch.testing.assert_close(one(x), members[0](x), **EXACT)


def test_repaired_layers_have_the_merged_statistics_of_their_members():
    members, x = networks("mlp_gelu", 2), example("mlp_gelu", batch=64)
    axes = trace(members[0], x)
    couplings = PartialOT(alpha=0.0)(axes, [m.state_dict() for m in members]).couplings()
    fused = fuse(members, PartialOT(alpha=0.0), x, (0.3, 0.7), calibration=[x[:32], x[32:]], refit=False)
    maps = unit_maps(couplings, (0.3, 0.7), 4)
    for layers, group in ((slice(0, 1), "0"), (slice(0, 3), "2")):
        for statistic in (lambda h: h.mean(0), lambda h: h.std(0, correction=0)):
            wanted = sum(m.merge @ statistic(member[layers](x)) for m, member in zip(maps[group], members, strict=True))
            torch.testing.assert_close(statistic(fused[layers](x)), wanted, rtol=1e-9, atol=1e-9)


def test_recalibrated_statistics_are_those_of_all_calibration_rows():
    members, x = networks("resnet", 2), example("resnet", batch=12)
    fused = fuse(members, PartialOT(alpha=0.5), x, calibration=[(x[:6], "labels"), (x[6:], "labels")], refit=False)
    stem = fused.stem(x).movedim(1, 0).flatten(1)
    matched = slice(0, 3)  # the other units have one member only, and keep that member's statistics
    torch.testing.assert_close(fused.bn.running_mean[matched], stem.mean(1)[matched])
    halves = [fused.stem(part).movedim(1, 0).flatten(1).var(1) for part in (x[:6], x[6:])]
    torch.testing.assert_close(fused.bn.running_var[matched], (sum(halves) / 2)[matched])
    own = balanced(members[0], trace(members[0], x), x)  # the same network, its free scales fixed as `fuse` fixes them
    assert float(fused.bn.running_mean[3]) in own.bn.running_mean.tolist()
    assert not fused.training and fused.bn.momentum == 0.1


def test_fused_networks_can_be_fused_again():
    (a, b, c), x = networks("resnet", 3), example("resnet")
    pair = fuse([a, b], PartialOT(alpha=1.0), x, (0.5, 0.5))
    three = fuse([pair, c], PartialOT(alpha=1.0), x, (2 / 3, 1 / 3))
    torch.testing.assert_close(three(x), (a(x) + b(x) + c(x)) / 3, **EXACT)


@pytest.mark.parametrize(
    ("weights", "message"),
    [((0.5, 0.6), "sum to 1"), ((1.0,), "one weight per member"), ((-1.0, 2.0), "non-negative")],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        fuse(networks("mlp_gelu", 2), PartialOT(alpha=0.5), example("mlp"), weights)


def test_members_that_do_not_belong_together_are_refused():
    x, good = example("mlp"), networks("mlp_gelu", 1)[0]
    broken = copy.deepcopy(good)
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    other_outputs = nn.Sequential(*list(copy.deepcopy(good))[:-1], nn.Linear(7, 3)).double()
    cases = {"NaN": broken, "outputs": other_outputs, "architecture": networks("mlp_relu", 1)[0]}
    for message, member in cases.items():
        with pytest.raises(ValueError, match=message):
            fuse([good, member], PartialOT(alpha=0.5), x)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        PartialOT(alpha=alpha)
