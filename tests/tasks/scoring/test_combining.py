"""Combiners: distributions of greatest likelihood, two tiers that copies do not move, means keyed by example."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from amalgam.tasks.merging.weights.providers import FisherTrace
from amalgam.tasks.scoring.combining import (
    COMBINERS,
    AwareNet,
    EntropyConfidence,
    FittedLogits,
    FittedProbabilities,
    MajorityVote,
    MeanLogits,
    MeanProbabilities,
    Mixture,
    PseudoLabels,
    TemperatureScaled,
)
from amalgam.tasks.scoring.combining.mixture import nll
from amalgam.tasks.scoring.logits import logit_ensemble, probability_ensemble

MEMBERS, EXAMPLES, CLASSES = 4, 60, 5


def drawn(seed=0, members=MEMBERS):
    """Members of differing skill and scale, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    noise = torch.randn(members, EXAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    skill = torch.linspace(0.2, 2.5, members, dtype=torch.float64)[:, None, None]
    return (noise + skill * torch.nn.functional.one_hot(labels, CLASSES)) * (1 + skill), labels


def made(name, members=MEMBERS):
    return COMBINERS[name](families=("a", "b") * (members // 2)) if name == "aware-net" else COMBINERS[name]()


@pytest.mark.parametrize("name", COMBINERS)
def test_every_combiner_gives_distributions(name):
    logits, labels = drawn()
    combined = made(name).fit(logits, labels)(logits)
    assert combined.shape == (EXAMPLES, CLASSES) and torch.isfinite(combined).all()
    torch.testing.assert_close(combined.exp().sum(1), torch.ones(EXAMPLES, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(set(COMBINERS) - {"aware-net"}))
def test_the_order_of_members_does_not_matter(name):
    logits, labels = drawn()
    order = torch.tensor([2, 0, 3, 1])
    first, second = (made(name).fit(each, labels)(each) for each in (logits, logits[order]))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(COMBINERS) - {"entropy-confidence", "majority-vote", "temperature"}))
def test_equal_members_combine_to_themselves(name):
    logits, labels = drawn(members=1)
    same = logits.expand(MEMBERS, -1, -1)
    torch.testing.assert_close(made(name).fit(same, labels)(same), logits[0].log_softmax(1))


def test_equal_members_are_combined_to_their_distribution_by_confidence():
    logits, labels = drawn(members=1)
    combined = EntropyConfidence(temperature=1).fit(logits, labels)(logits.expand(3, -1, -1))
    torch.testing.assert_close(combined, logits[0].log_softmax(1))


def test_plain_means_are_those_of_the_reports():
    logits, labels = drawn()
    torch.testing.assert_close(MeanLogits().fit(logits, labels)(logits), logit_ensemble(list(logits)).log_softmax(1))
    torch.testing.assert_close(MeanProbabilities().fit(logits, labels)(logits), probability_ensemble(list(logits)))


@pytest.mark.parametrize("seed", range(5))
def test_fitted_weights_are_of_greatest_likelihood(seed):
    logits, labels = drawn(seed)

    def loss(parameters):
        weights = torch.tensor(parameters).softmax(0)
        return nll(Mixture(tuple(weights.tolist()))(logits), labels)

    known = minimize(loss, torch.zeros(MEMBERS).numpy(), method="Nelder-Mead", options={"maxiter": 4000})
    fitted = FittedProbabilities().fit(logits, labels)
    assert nll(fitted(logits), labels) <= known.fun + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_fitting_never_loses_to_equal_weights_or_to_the_best_member(seed):
    logits, labels = drawn(seed)
    equal = nll(MeanProbabilities().fit(logits, labels)(logits), labels)
    best = min(nll(member.log_softmax(1), labels) for member in logits)
    assert nll(FittedProbabilities().fit(logits, labels)(logits), labels) <= min(equal, best) + 1e-6
    assert nll(FittedLogits().fit(logits, labels)(logits), labels) <= nll(
        MeanLogits().fit(logits, labels)(logits), labels
    )
    assert nll(TemperatureScaled().fit(logits[:1], labels)(logits[:1]), labels) <= nll(logits[0].log_softmax(1), labels)


def test_fitted_temperature_undoes_a_known_one():
    generator = torch.Generator().manual_seed(0)
    calibrated = 2 * torch.randn(1, 20_000, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(calibrated[0].softmax(1), 1, generator=generator).squeeze(1)
    fitted = TemperatureScaled().fit(3 * calibrated, labels)
    assert fitted.temperatures[0] == pytest.approx(3, rel=0.05)


def test_one_family_is_the_plain_mean():
    logits, labels = drawn()
    combined = AwareNet(families=("a",) * MEMBERS).fit(logits, labels)(logits)
    torch.testing.assert_close(combined, MeanProbabilities().fit(logits, labels)(logits))


def test_a_copy_in_a_family_leaves_its_share():
    logits, labels = drawn()
    fitted = AwareNet(families=("a", "b", "b", "c")).fit(logits, labels)
    copied = AwareNet(families=("a", "b", "b", "c", "c")).fit(torch.cat([logits, logits[3:]]), labels)
    assert sum(copied.weights[3:]) == pytest.approx(fitted.weights[3])
    flat = FittedProbabilities().fit(torch.cat([logits, logits[3:]]), labels)
    assert sum(flat.weights) == pytest.approx(1)


def test_members_of_a_family_are_interchangeable():
    logits, labels = drawn()
    families = ("a", "b", "b", "a")
    first = AwareNet(families=families).fit(logits, labels)(logits)
    swapped = logits[[3, 2, 1, 0]]
    torch.testing.assert_close(AwareNet(families=families).fit(swapped, labels)(swapped), first)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_mixture_is_no_worse_than_its_parts_on_average(seed):
    logits, labels = drawn(seed)
    weights = torch.rand(MEMBERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = weights / weights.sum()
    of_parts = sum(w * nll(z.log_softmax(1), labels) for w, z in zip(weights.tolist(), logits, strict=True))
    assert nll(Mixture(tuple(weights.tolist()))(logits), labels) <= of_parts + 1e-9


def test_confidence_is_one_for_a_certain_class_and_zero_for_none():
    certain = torch.tensor([[0.0, -1e9, -1e9]], dtype=torch.float64)
    uniform = torch.full((1, 3), -math.log(3), dtype=torch.float64)
    assert EntropyConfidence.confidence(certain).item() == pytest.approx(1)
    assert EntropyConfidence.confidence(uniform).item() == pytest.approx(0, abs=1e-12)


def test_confidence_weighs_out_a_member_that_knows_nothing():
    logits = torch.tensor([[[5.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    combined = EntropyConfidence(temperature=1).combine(logits)
    torch.testing.assert_close(combined, logits[0].log_softmax(1))


def test_the_majority_wins_over_a_loud_member():
    logits = torch.tensor([[[9.0, 0.0]], [[0.0, 0.1]], [[0.0, 0.1]]])
    assert MajorityVote().combine(logits).argmax(1).tolist() == [1]
    assert MeanProbabilities().fit(logits, torch.tensor([0]))(logits).argmax(1).tolist() == [0]


def batch(ids, seed=0):
    rows = torch.rand(len(ids), CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.sum(1, keepdim=True)


def test_running_means_belong_to_examples_whatever_their_order():
    first, second = PseudoLabels(), PseudoLabels()
    rows = batch(range(6))
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        first.update(range(6), rows)
        second.update(order, rows[order])
    torch.testing.assert_close(
        torch.stack([first.means[key] for key in range(6)]), torch.stack([second.means[key] for key in range(6)])
    )


def test_decay_one_keeps_the_first_prediction_and_zero_the_last():
    rows, later = batch(range(4)), batch(range(4), seed=1)
    kept, fresh = PseudoLabels(decay=1), PseudoLabels(decay=0, now=1)
    for labels in (kept, fresh):
        labels.update(range(4), rows)
        labels.update(range(4), later)
    torch.testing.assert_close(torch.stack(list(kept.means.values())), rows)
    torch.testing.assert_close(torch.stack(list(fresh.means.values())), later)


@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.75])
def test_the_share_that_is_kept_is_what_the_quantile_leaves(quantile):
    kept = PseudoLabels(quantile=quantile).update(range(40), batch(range(40))).kept
    assert kept.sum().item() == pytest.approx(40 * (1 - quantile), abs=1)


@pytest.mark.parametrize(
    "logits, labels, value",
    [
        (torch.zeros(2, 3), torch.zeros(3).long(), r"\(2, 3\)"),
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), r"\(2,\)"),
        (torch.zeros(2, 3, 4), torch.tensor([0, 4, 1]), "0 to 4"),
        (torch.tensor([[[0.0, 1.0]], [[math.nan, 1.0]]]), torch.tensor([0]), "member 1"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, value):
    with pytest.raises(ValueError, match=value):
        MeanLogits().fit(logits, labels)


@pytest.mark.parametrize("weights", [(), (0.5, 0.6), (1.5, -0.5)])
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Mixture(weights)


def test_families_of_other_members_are_refused():
    logits, labels = drawn()
    with pytest.raises(ValueError, match=r"families.*4 members"):
        AwareNet(families=("a", "b")).fit(logits, labels)


def test_weights_of_providers_for_merges_weigh_logits_and_probabilities_too():
    logits, labels = drawn()
    shares = FisherTrace()([1.0, 2.0, 3.0, 4.0])
    for kind, ensemble in ((MeanLogits, logit_ensemble), (MeanProbabilities, probability_ensemble)):
        found = kind(weights=shares).fit(logits, labels)(logits)
        torch.testing.assert_close(found, ensemble(list(logits), shares).log_softmax(1))
    with pytest.raises(ValueError, match="4 members, 2 weights"):
        MeanLogits(weights=(0.5, 0.5)).fit(logits, labels)
