"""Laws of budgets: met from below, nested, monotone, one network at the least and the ensemble at the most."""

import pytest
import torch

from amalgam.tasks.fusion import Budget, fuse, merge, support
from amalgam.tasks.tracing.cost import cost_of, flops_by_parameter
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
each_network = pytest.mark.parametrize("kind", NETWORKS)
LIMITS = (1.0, 1.15, 1.3, 1.7)


def costs(kind: str, count: int, **budget: float):
    """(nonzero operations, nonzero parameters) of a fused network and of a member, and the matching."""
    members, x = networks(kind, count), example(kind)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    matching = Budget(**budget).prepared(members[0], x)(axes, states)
    fused = merge(members, axes, matching.couplings(), (1 / count,) * count)
    cost, single = cost_of(fused, x, support(axes, matching.couplings(), fused)), cost_of(members[0], x)
    return cost, single, matching.universe


@each_network
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_budgets_are_met_from_below_grow_and_are_nested(kind, count):
    previous, kept = (0, 0), None
    for limit in LIMITS:
        cost, single, universe = costs(kind, count, flops=limit)
        assert cost.nonzero_flops <= limit * single.flops + 1
        assert (cost.nonzero_flops, cost.nonzero_parameters) >= previous
        previous = (cost.nonzero_flops, cost.nonzero_parameters)
        if kept is not None:
            for group, slots in universe.slots.items():
                assert torch.equal(slots, kept.slots[group])
                assert universe.num_matched[group] <= kept.num_matched[group]
        kept = universe


@each_network
def test_no_slot_more_would_fit_the_budget_of_parameters(kind):
    cost, single, _ = costs(kind, 2, parameters=1.3)
    more, _, _ = costs(kind, 2, parameters=1.5)
    assert cost.nonzero_parameters <= 1.3 * single.parameters < more.nonzero_parameters


@each_network
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_budget_of_the_ensemble_is_the_ensemble(kind, count):
    members, x = networks(kind, count), example(kind)
    fused = fuse(members, Budget(flops=count, parameters=count + 0.01), x)
    torch.testing.assert_close(fused(x), sum(member(x) for member in members) / count, **EXACT)


@each_network
def test_all_weight_on_one_member_is_that_member_at_any_budget(kind):
    members, x = networks(kind, 2), example(kind)
    for limit in LIMITS:
        torch.testing.assert_close(fuse(members, Budget(flops=limit), x, (0.0, 1.0))(x), members[1](x), **EXACT)


def test_operations_of_all_entries_are_those_of_the_network():
    net, x = networks("cnn", 1)[0], example("cnn")
    of_entry, parameters = flops_by_parameter(net, x), dict(net.named_parameters())
    total = sum(count * parameters[name].numel() for name, count in of_entry.items())
    assert total == pytest.approx(cost_of(net, x).flops)


@pytest.mark.parametrize(("settings", "message"), [({}, "limit"), ({"flops": 0.5}, "flops"), ({"alpha": 1}, "alpha")])
def test_budgets_without_a_sensible_limit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Budget(**settings)
