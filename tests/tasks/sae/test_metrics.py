"""Laws of the measures of an autoencoder."""

import pytest
import torch

from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.codes import largest
from amalgam.tasks.sae.metrics import (
    MonosemanticityMeter,
    QualityMeter,
    fvu,
    matched_cosines,
    quality_by_domain,
    recovered,
)
from amalgam.tasks.sae.rules import TopK
from tests.tasks.sae.planted import NUM_ATOMS, WIDTH, planted
from tests.tasks.sae.test_codes import autoencoder


def test_the_mean_leaves_all_variance_unexplained_and_perfection_none():
    x = planted(100)[0]
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, abs=1e-6)
    assert fvu(x, x) == 0


def double_loop(weights, features):
    """The mean cosine of pairs of features, by the product of their weights; NaN where no pair has any."""
    directions = unit_norm(features)
    pairs = [(n, m) for n in range(len(features)) for m in range(n)]
    similar = sum(weights[n] * weights[m] * (directions[n] @ directions[m]) for n, m in pairs)
    return (similar / sum(weights[n] * weights[m] for n, m in pairs)).item()


def test_monosemanticity_is_the_mean_over_latents_that_two_images_activate():
    sae, x = autoencoder(TopK(k=2)).double(), planted(25)[0].double()
    meter = QualityMeter(sae)
    for part in x.split(10):
        meter.update(part)
    quality, codes = meter.result(), sae.encode(x).dense()
    scored = codes[:, ((codes != 0).sum(0) > 1) & ~(codes != 0).all(0)]
    assert 1 < scored.shape[1] < sae.info.num_latents
    each = [double_loop(column, x) for column in scored.T]
    assert quality.monosemanticity == pytest.approx(sum(each) / len(each), rel=1e-9)
    assert quality.similarity == pytest.approx(double_loop(torch.ones(25), x), rel=1e-9)


def test_a_single_image_is_like_no_other():
    meter = QualityMeter(autoencoder(TopK(k=1)))
    meter.update(planted(1)[0])
    assert meter.result().monosemanticity is meter.result().similarity is None


@pytest.mark.parametrize("parts", [1, 5])
def test_streamed_quality_is_that_of_all_features_in_any_order(parts):
    sae, x = autoencoder(TopK(k=3)).double(), planted(200)[0].double()  # in float32 codes depend on the batch
    head, labels = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0)).double(), torch.arange(200) % 5
    order, meter = torch.randperm(200, generator=torch.Generator().manual_seed(0)), QualityMeter(sae, head)
    for chosen in order.chunk(parts):
        meter.update(x[chosen], labels[chosen])
    quality, codes = meter.result(), sae.encode(x).dense()
    assert quality.fvu == pytest.approx(fvu(x, sae(x)), rel=1e-9)
    assert quality.l0 == codes.count_nonzero().item() / 200
    torch.testing.assert_close(quality.firing_rates, (codes != 0).double().mean(0))
    assert quality.dead_share == (codes == 0).all(0).double().mean().item()
    assert quality.accuracy == pytest.approx(((x @ head.T).argmax(1) == labels).double().mean().item())
    predicted = (sae(x) @ head.T).argmax(1)
    assert quality.reconstruction_accuracy == pytest.approx((predicted == labels).double().mean().item())


def test_dead_latents_are_those_of_five_hundred_images_whatever_the_size_of_the_set():
    sae, x = autoencoder(TopK(k=1)).double(), planted(2000)[0].double()
    meter = QualityMeter(sae)
    meter.update(x)
    fired, draw = sae.encode(x).dense() != 0, torch.Generator().manual_seed(0)
    draws = [~fired[torch.randperm(2000, generator=draw)[:500]].any(0) for _ in range(300)]
    expected = torch.stack(draws).double().mean(1)
    assert expected.std() > 0 and (expected.mean() > (~fired.any(0)).double().mean())
    assert meter.result().dead_share == pytest.approx(expected.mean().item(), abs=4 * expected.std().item() / 300**0.5)


def test_quality_by_domain_is_the_quality_of_each_domain_alone():
    sae, x = autoencoder(TopK(k=3)).double(), planted(90)[0].double()  # in float32 codes depend on the batch
    domains, labels = torch.arange(90) % 3, torch.zeros(90, dtype=torch.long)
    found = quality_by_domain(sae, zip(x.split(20), labels.split(20), domains.split(20), strict=True))
    for domain in range(3):
        chosen = x[domains == domain]
        assert found[domain].num_examples == 30
        assert found[domain].fvu == pytest.approx(fvu(chosen, sae(chosen)), rel=1e-9)


def test_a_dictionary_in_another_order_is_perfectly_stable():
    atoms = planted(1)[1]
    order = torch.randperm(NUM_ATOMS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matched_cosines(atoms, 3 * atoms[order]), torch.ones(NUM_ATOMS, dtype=torch.float64))
    torch.testing.assert_close(recovered(atoms, atoms[order]), torch.ones(NUM_ATOMS))
    assert len(matched_cosines(atoms, atoms[:5])) == 5
    assert matched_cosines(atoms, planted(1, seed=9)[1]).mean() < 0.7


def test_monosemanticity_equals_the_double_loop_over_images():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(30, 6, generator=generator).relu()
    activations[:, 4] += 0.5  # active everywhere: only the scaling to [0, 1] makes its weakest image count for nothing
    activations[:, 5] = 0
    embeddings = torch.randn(30, 8, generator=generator)
    meter = MonosemanticityMeter()
    for a, e in zip(activations.split(7), embeddings.split(7), strict=True):
        meter.update(largest(a, a.shape[1]), e)
    score, e = meter.result(), unit_norm(embeddings.double())
    for latent in range(5):
        a = activations[:, latent].double()
        a = (a - a.min()) / (a.max() - a.min())
        pairs = [(n, m) for n in range(30) for m in range(n)]
        similar = sum(a[n] * a[m] * (e[n] @ e[m]) for n, m in pairs)
        assert score[latent].item() == pytest.approx((similar / sum(a[n] * a[m] for n, m in pairs)).item(), rel=1e-9)
    assert score[5].isnan()


def test_a_latent_of_one_image_has_no_score_and_one_of_equal_images_the_best():
    activations = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    embeddings = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 1]])
    meter = MonosemanticityMeter()
    meter.update(largest(activations, 3), embeddings)
    torch.testing.assert_close(meter.result(), torch.tensor([torch.nan, 1, 0], dtype=torch.float64), equal_nan=True)


def test_meters_refuse_what_they_cannot_measure():
    x = planted(4)[0]
    with pytest.raises(ValueError, match="labels"):
        QualityMeter(autoencoder(TopK(k=1)), head=torch.zeros(3, WIDTH)).update(x)
    with pytest.raises(ValueError, match="no features"):
        QualityMeter(autoencoder(TopK(k=1))).result()
    with pytest.raises(ValueError, match="no activations"):
        MonosemanticityMeter().result()
    with pytest.raises(ValueError, match=r"\d+ rows .*got \d+"):
        MonosemanticityMeter().update(largest(x, 1), x[:2])
