"""Tables of latents are those of all images at once, and follow the latents wherever they stand."""

import pickle

import pytest
import torch

from amalgam.tasks.explain.comparison import Comparison
from amalgam.tasks.explain.explanation import Explainer
from amalgam.tasks.explain.latents.table import entropy
from tests.tasks.explain.worlds import (
    NUM_DOMAINS,
    RULE,
    drifted,
    explained,
    head,
    random_batch,
    random_comparison,
)
from tests.tasks.sae.planted import RULES
from tests.tasks.sae.test_codes import autoencoder


def test_rates_means_and_strongest_images_are_those_of_the_whole_set():
    batch, found = random_batch(), explained(random_comparison(), drifted(), batch_size=7, top_n=4)
    table, s = found.after, batch.s1.dense()
    torch.testing.assert_close(table.firing_rates, (s != 0).double().mean(0))
    torch.testing.assert_close(table.class_rates[2], (s[batch.labels == 2] != 0).double().mean(0))
    alive = table.firing_rates > 0
    torch.testing.assert_close(table.means[alive], (s.sum(0) / (s != 0).sum(0))[alive])
    values, rows = s.T.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(table.top_values, values[:, :4])
    assert torch.equal(table.top_rows, rows[:, :4].where(values[:, :4] > 0, -1))
    fired_before, fired_at_all = (s0 := batch.s0.dense()).any(0), found.alive
    meant = torch.where(fired_before, s0, s)[:, fired_at_all]  # what a latent stood for before, if it did at all
    places = (meant.T @ batch.z0) / meant.sum(0)[:, None]
    torch.testing.assert_close(found.directions[fired_at_all], places - batch.z0.mean(0))
    assert torch.equal(found.meaning.counts[fired_at_all], (meant != 0).double().sum(0))


def test_entropy_counts_classes_in_bits_by_weight():
    weights = torch.tensor([[1.0, 1, 1, 1], [3, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]]).double()
    groups = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -1], [2, -1, -1, -1], [-1, -1, -1, -1]])
    expected = torch.tensor([2.0, 0.8112781244591328, 0.0, torch.nan]).double()
    torch.testing.assert_close(entropy(weights, groups, 4), expected, equal_nan=True)


def test_any_batches_give_one_explanation():
    one, many = (explained(random_comparison(), drifted(), batch_size=size) for size in (60, 7))
    assert torch.equal(one.after.top_rows, many.after.top_rows)
    torch.testing.assert_close(one.after.monosemanticity, many.after.monosemanticity, equal_nan=True)
    torch.testing.assert_close(one.changes.by_domain.effect, many.changes.by_domain.effect)
    assert one.flips.groups == many.flips.groups or all(
        (a.kind, a.latent, a.number, a.examples) == (b.kind, b.latent, b.number, b.examples)
        for a, b in zip(one.flips.groups, many.flips.groups, strict=True)
    )
    assert torch.equal(one.clamps["zero"].newly_correct, many.clamps["zero"].newly_correct)


def test_permuted_latents_permute_every_table():
    by, order = random_comparison(), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    sae = autoencoder(RULES[0]).double()
    sae.encoder.data, sae.decoder.data = by.sae.encoder[order], by.sae.decoder[order]
    sae.info = by.sae.info
    sae.bias.data = by.sae.bias.data
    one, other = (explained(each, drifted()) for each in (by, Comparison(sae, head(1), head(2))))
    for name in ("firing_rates", "means", "top_values", "label_entropy", "domain_entropy", "monosemanticity"):
        torch.testing.assert_close(getattr(other.after, name), getattr(one.after, name)[order], equal_nan=True)
    for name in ("added", "removed", "mean_change", "effect", "p", "q"):
        torch.testing.assert_close(getattr(other.changes.by_class, name), getattr(one.changes.by_class, name)[:, order])
    assert torch.equal(other.clamps["before"].newly_incorrect, one.clamps["before"].newly_incorrect[order])
    led = [{(g.kind, g.latent): g.number for g in found.flips.groups} for found in (one, other)]
    assert led[0] == {(kind, int(order[latent])): number for (kind, latent), number in led[1].items()}


def test_memory_grows_with_the_active_latents_alone():
    by, sizes = random_comparison(), []
    explainer = Explainer(by, NUM_DOMAINS, top_n=4)
    before, after, labels, domains = drifted(num_images=400)
    for part in torch.arange(400).split(100):
        explainer.update(by.of(before[part], after[part], labels[part], domains[part]), before[part])
        meters = (*explainer.similar, explainer.changes, explainer.shares, explainer.clamps, explainer)
        sizes.append(sum(t.numel() for meter in meters for t in meter.sums.values()))
    assert len(set(sizes)) == 1
    assert len(pickle.dumps(explainer.flips.examples)) < 64 * 3 * 6 * 10
    assert sum(len(batch.images) for batch in explainer.active) <= 2 * RULE.k * 400


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        Explainer(random_comparison(), NUM_DOMAINS, 4).result()
