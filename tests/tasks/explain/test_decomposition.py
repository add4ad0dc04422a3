"""The parts of a change add up to the change of the classifiers' own logits."""

import pytest
import torch

from amalgam.tasks.explain.comparison import Comparison
from amalgam.tasks.explain.decomposition import SharesMeter, contributions, decompose
from tests.tasks.explain.worlds import (
    NUM_CLASSES,
    NUM_DOMAINS,
    axes_comparison,
    drifted,
    head,
    planted_change,
    random_batch,
    random_comparison,
)
from tests.tasks.sae.planted import RULES
from tests.tasks.sae.test_codes import autoencoder

EXACT = {"rtol": 0, "atol": 1e-10}  # float64 sums of numbers up to 100


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_parts_add_up_to_the_change_of_every_logit(rule):
    before, after, *_ = drifted()
    batch = random_batch(rule)
    old, new = head(1).double(), head(2).double()
    torch.testing.assert_close(decompose(batch).total, new(after.double()) - old(before.double()), **EXACT)
    # In single precision, in which classifiers compute, a logit of this size is known to 1e-4.
    single = head(2)(after) - head(1)(before)
    torch.testing.assert_close(decompose(batch).total.float(), single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_single_latents_add_up_to_the_part_of_all_latents(rule):
    batch = random_batch(rule)
    for classes in (batch.labels, torch.full_like(batch.labels, 3)):
        summed = batch.active.dense(contributions(batch.by, batch.active, classes)).sum(1)
        torch.testing.assert_close(summed, decompose(batch).of(classes).latents, **EXACT)


def test_equal_features_and_heads_have_no_parts():
    before, _, *groups = drifted()
    batch = Comparison(autoencoder(RULES[0]), head(1), head(1)).of(before, before, *groups)
    parts = decompose(batch)
    assert not parts.latents.any() and not parts.error.any() and not parts.head.any()


def test_another_head_on_equal_features_is_all_head():
    before, _, *groups = drifted()
    parts = decompose(random_comparison().of(before, before, *groups))
    assert not parts.latents.any() and not parts.error.any() and parts.head.all()


def test_a_change_along_atoms_is_all_latents_and_one_across_them_all_error():
    by = axes_comparison()
    before, after, *groups = planted_change()
    along = decompose(by.of(before, after, *groups))
    assert along.latents.any() and along.error.abs().max() < 1e-6 and not along.head.any()
    hidden = torch.eye(len(before[0]))[3] * 0.1  # too weak for the two strongest axes: the code leaves it out
    across = decompose(by.of(before, before + hidden, *groups))
    others = groups[0] != 3
    assert across.error[others, 3].min() > 0.1 and not across.latents[others, 3].any()


def test_shares_are_means_over_all_images_however_batched():
    batch, parts = random_batch(), decompose(random_batch())
    meter, (before, after, labels, domains) = SharesMeter(NUM_DOMAINS), drifted()
    for chosen in torch.arange(60).split(7):
        part = batch.by.of(before[chosen], after[chosen], labels[chosen], domains[chosen])
        meter.update(part, decompose(part))
    shares, true = meter.result(), parts.of(labels)
    torch.testing.assert_close(shares.change[-1], true.total.mean())
    torch.testing.assert_close(shares.size["error"][1], true.error[domains == 1].abs().mean())
    torch.testing.assert_close(sum(shares.mean.values()), shares.change)
    torch.testing.assert_close(sum(shares.share(name) for name in shares.size), torch.ones(NUM_DOMAINS + 1).double())
    unexplained = (true.total - true.latents).square().sum() / true.total.square().sum()
    torch.testing.assert_close(shares.fit[-1], 1 - unexplained)


def test_what_does_not_belong_together_is_refused():
    sae = autoencoder(RULES[0])
    with pytest.raises(ValueError, match=r"\(\d+, \d+\) and \(\d+, \d+\)"):
        Comparison(sae, head(1), torch.nn.Linear(16, NUM_CLASSES + 1))
    with pytest.raises(ValueError, match=r"width 16,.* 8"):
        Comparison(sae, torch.nn.Linear(8, 3), torch.nn.Linear(8, 3))
    with pytest.raises(ValueError, match="normalised"):
        Comparison(autoencoder(RULES[0], normalised=False), head(1), head(2))
    with pytest.raises(ValueError, match=r"\(\d+, \d+\)"):
        random_comparison().of(torch.ones(3, 16), torch.ones(4, 16), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="no images"):
        SharesMeter(1).result()
