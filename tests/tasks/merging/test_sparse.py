"""BayesTune: the distribution of scales is scipy's, masks have their size, planted entries are found."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.merging.multitask.data import task_data
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.merging.sparse.bayestune import BayesTune
from amalgam.tasks.merging.sparse.chain import sparse_scores
from amalgam.tasks.merging.sparse.gig import gig_mean, gig_mode, gig_sample
from amalgam.tasks.merging.sparse.masks import density, movement, random_scores, select

SETTINGS = [(-0.99, 200.0, 2e-3), (-0.5, 200.0, 0.2), (0.3, 2.0, 5.0), (2.0, 1.0, 40.0)]


def known(p, a, b):
    return stats.geninvgauss(p, np.sqrt(a * b), scale=np.sqrt(b / a))


@pytest.mark.parametrize(("p", "a", "b"), SETTINGS)
def test_draws_and_means_are_those_of_the_distribution(p, a, b):
    drawn = gig_sample(p, a, torch.full((4000,), b, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert stats.kstest(drawn.numpy(), known(p, a, b).cdf).pvalue > 0.01
    assert gig_mean(p, a, torch.tensor([b], dtype=torch.float64)).item() == pytest.approx(known(p, a, b).mean())


@pytest.mark.parametrize(("p", "a", "b"), SETTINGS)
def test_the_mode_has_the_highest_density(p, a, b):
    mode = gig_mode(p, a, torch.tensor(b, dtype=torch.float64)).item()
    density_at = known(p, a, b).pdf
    assert all(density_at(mode) >= density_at(mode * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_the_mode_is_the_formula_of_the_closed_form():
    shape, rate, moved = 0.01, 100.0, torch.tensor([0.0, 1e-6, 1e-3, 0.5], dtype=torch.float64)
    expected = (-(2 - shape) + ((2 - shape) ** 2 + 4 * rate * moved).sqrt()) / (2 * rate)
    torch.testing.assert_close(gig_mode(shape - 1, 2 * rate, 2 * moved), expected)


@pytest.mark.parametrize("rule", [gig_mode, gig_mean])
def test_scales_grow_with_how_far_an_entry_moved(rule):
    scales = rule(-0.99, 200.0, torch.logspace(-8, 1, 200, dtype=torch.float64))
    assert (scales.diff() > 0).all()


@given(st.floats(0, 1), st.integers(0, 50), st.sampled_from(["global", "layer"]))
def test_masks_have_the_share_that_is_wanted(share, seed, budget):
    scores = random_scores({"a": torch.empty(7, 5), "b": torch.empty(11), "c": torch.empty(2, 3, 4)}, seed)
    masks = select(scores, share, budget)
    sizes = [score.numel() for score in scores.values()]
    if budget == "global":
        assert abs(density(masks) - share) <= 0.5 / sum(sizes) + 1e-12
    else:
        assert all(abs(int(m.sum()) - share * m.numel()) <= 0.5 + 1e-9 for m in masks.values())
    chosen, left = (
        torch.cat([s[m == flag] for s, m in zip(scores.values(), masks.values(), strict=True)]) for flag in (1, 0)
    )
    if budget == "global" and len(chosen) and len(left):
        assert chosen.min() >= left.max()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        select({"a": torch.rand(3)}, share)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores of b"):
        select({"a": torch.rand(3), "b": torch.tensor([1.0, float("nan")])}, 0.5)


def planted(support=8, side=6, count=900):
    """Images whose class depends on some pixels alone, a linear base that knows nothing, and which pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, side, side), generator=generator).to(torch.uint8)
    places = torch.randperm(side * side, generator=generator)[:support]
    signs = torch.randint(2, (support,), generator=generator) * 2.0 - 1
    logits = ((pixels.flatten(1)[:, places].float() / 127.5 - 1) * signs).sum(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 2))
    with torch.no_grad():
        [p.zero_() for p in module.parameters()]
    return in_memory(pixels, (logits > 0).long(), ("no", "yes")), module, places


def scored(how, seed=0, **run):
    data, module, places = planted()
    return sparse_scores(module, data, range(len(data)), how, seed, log=lambda *_: None, **run), places, module


@pytest.mark.parametrize("how", [{}, {"rule": "mean"}, {"chain": "sgld", "rule": "sample"}, {"chain": "sgld"}])
def test_planted_entries_are_found_as_well_as_by_magnitude(how):
    scores, places, module = scored(BayesTune(**how))
    found = scores["1.weight"].sum(0).topk(len(places)).indices
    moved = movement({"1.weight": torch.zeros(2, 36)}, module.state_dict())
    by_magnitude = moved["1.weight"].sum(0).topk(len(places)).indices
    hits = {
        name: len(set(ids.tolist()) & set(places.tolist())) for name, ids in (("ours", found), ("theirs", by_magnitude))
    }
    assert hits["ours"] >= max(7, hits["theirs"] - 1)


def test_the_prior_leaves_entries_that_the_data_do_not_need_at_the_base():
    _, places, module = scored(BayesTune(num_data=3e3, epochs=30))
    weight = module[1].weight.detach()
    others = torch.ones(36, dtype=torch.bool)
    others[places] = False
    assert (weight[:, others] == 0).float().mean() > 0.8
    assert (weight[:, places] != 0).float().mean() > 0.8


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("chain", ["map", "sgld"])
def test_a_chain_cut_short_and_resumed_is_the_same_chain(chain):
    how, states = BayesTune(chain=chain, rule="sample", epochs=6, warmup=1, burn_in=3), []
    whole, *_ = scored(how, save=states.append)
    resumed, *_ = scored(how, resume=states[3])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_chain_that_averages_nothing_is_refused():
    with pytest.raises(ValueError, match="5, 10 and 10"):
        BayesTune(epochs=10)


def test_no_source_is_on_both_sides_of_a_task(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 90), ("test", 30)):
        arrays |= {f"{part}_images": draw.integers(0, 255, (count, 6, 6), dtype=np.uint8)}
        arrays |= {f"{part}_labels": np.arange(count) % 3, f"{part}_patient": draw.integers(0, 20, count)}
    np.savez(tmp_path / "set.npz", **arrays)
    task = TaskSpec(data=DataSpec(name="npz:set.npz", group_column="patient"), turns=1)
    parts = task_data(task, (1, 6, 6), 0.3, 0, tmp_path)
    patients = [set(arrays["train_patient"][places].tolist()) for places in (parts.pool, parts.validation)]
    assert all(patients) and not patients[0] & patients[1]
