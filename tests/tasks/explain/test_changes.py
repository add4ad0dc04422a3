"""Changes are found where they were made, their tests agree with enumeration, and nothing changes by itself."""

from math import comb

import pytest
import torch
from scipy.stats import binomtest

from amalgam.tasks.explain.changes import ChangeMeter
from amalgam.tasks.explain.comparison import Comparison
from amalgam.tasks.explain.significance import discovery_rates, mcnemar
from tests.tasks.explain.worlds import (
    GAINED,
    LOST,
    VICTIM,
    axes_comparison,
    drifted,
    explained,
    head,
    planted_change,
    random_batch,
    random_comparison,
)
from tests.tasks.sae.planted import RULES
from tests.tasks.sae.test_codes import autoencoder


def test_mid_p_is_that_of_all_outcomes_counted_one_by_one():
    for number in range(12):
        for added in range(number + 1):
            least = min(added, number - added)
            weights = [comb(number, i) / 2**number for i in range(number + 1)]
            mid = 2 * (sum(weights[:least]) + weights[least] / 2)
            found = mcnemar(torch.tensor(added), torch.tensor(number - added)).item()
            assert found == pytest.approx(min(1.0, mid), abs=1e-12)


def test_mid_p_is_the_exact_test_less_the_observed_outcome():
    for added, removed in ((3, 40), (100, 61), (700, 801)):
        exact = binomtest(added, added + removed, 0.5)
        observed = comb(added + removed, added) / 2 ** (added + removed)
        found = mcnemar(torch.tensor([added]), torch.tensor([removed])).item()
        assert found == pytest.approx(exact.pvalue - observed, rel=1e-9)


def test_discovery_rates_are_the_step_up_procedure():
    p = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)).double() ** 3
    for level in (0.01, 0.05, 0.2):
        ordered, number = p.flatten().sort().values, p.numel()
        below = (ordered <= level * torch.arange(1, number + 1) / number).nonzero()
        limit = ordered[below.max()] if len(below) else -1.0
        assert torch.equal(discovery_rates(p) <= level, p <= limit)


def test_equal_networks_change_nothing():
    before, _, *groups = drifted()
    found = explained(Comparison(autoencoder(RULES[0]), head(1), head(1)), (before, before, *groups))
    for changes in (found.changes.overall, found.changes.by_class, found.changes.by_domain):
        assert not changes.added.any() and not changes.removed.any() and not changes.effect.any()
        assert (changes.p == 1).all() and (changes.q == 1).all()
    assert not found.flips.numbers.any() and not found.flips.groups and found.flips.explained_share is None
    assert not found.clamps["before"].newly_correct.any() and not found.clamps["before"].newly_incorrect.any()
    assert len({value[-1].item() for value in found.accuracies.values()}) == 1


def test_a_planted_change_is_found_by_every_table():
    found = explained(axes_comparison(), planted_change())
    overall, by_class = found.changes.overall, found.changes.by_class
    significant = (overall.q[0] < 0.01).nonzero().flatten().tolist()
    assert significant == sorted((LOST, GAINED))
    assert overall.removed[0, LOST] == overall.added[0, GAINED] == 40 and overall.added.sum() == 40
    assert (by_class.q[VICTIM] < 0.01).sum() == 2 and by_class.added.sum() == 40
    assert overall.effect[0].argmin() == LOST  # the axis that the true class is read off
    (group,) = found.flips.groups
    # Both axes move the margin by the same amount: either may lead.
    assert group.kind == "right to wrong" and group.latent in (LOST, GAINED) and group.number == 40
    assert found.flips.explained_share == found.flips.alone_share == 1.0
    assert found.accuracies["before"][-1] == found.accuracies["latents back"][-1] == 1.0
    assert found.accuracies["after"][-1] == found.accuracies["error back"][-1] == 0.8


def test_setting_back_the_planted_latent_rights_its_victims():
    before, after, *groups = planted_change()
    after = after + 0.6 * before  # class 2 keeps a weaker trace of itself, so that one axis decides
    found = explained(axes_comparison(), (before, after, *groups))
    clamps = found.clamps["before"]
    assert clamps.newly_correct.nonzero().flatten().tolist() == sorted((LOST, GAINED))
    assert clamps.newly_correct[GAINED] == clamps.restored[GAINED] == 40 and clamps.p[GAINED] < 1e-6
    assert clamps.accuracy_change[GAINED] == pytest.approx(0.2)
    assert not clamps.newly_incorrect.any()


def test_groups_add_up_to_the_whole():
    table = explained(random_comparison(), drifted()).changes
    for name in ("added", "removed"):
        whole = getattr(table.overall, name)[0]
        assert torch.equal(getattr(table.by_class, name).sum(0), whole)
        assert torch.equal(getattr(table.by_domain, name).sum(0), whole)
    for name in ("mean_change", "effect"):
        for groups in (table.by_class, table.by_domain):
            weighted = (groups.images[:, None] * getattr(groups, name)).sum(0) / groups.images.sum()
            torch.testing.assert_close(weighted, getattr(table.overall, name)[0])


def test_effects_are_mean_contributions_to_the_true_logit():
    batch = random_batch()
    meter = ChangeMeter(batch.by, 3)
    meter.update(batch)
    rows = batch.by.weights[0][batch.labels]
    expected = (batch.active.dense(batch.active.change) * (rows @ batch.by.atoms.T)).mean(0)
    torch.testing.assert_close(meter.result().overall.effect[0], expected)


def test_meters_without_images_have_no_result():
    with pytest.raises(ValueError, match="no images"):
        ChangeMeter(random_comparison(), 1).result()
