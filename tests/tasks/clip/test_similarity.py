"""CKA is that of the Gram matrices over examples, blind to rotations; supports are counted as sets."""

import pytest
import torch

from amalgam.tasks.clip.testing.similarity import DriftMeter
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, initial, unit_norm
from amalgam.tasks.sae.config import SAEInfo, SAETrainConfig
from amalgam.tasks.sae.metrics import fvu
from amalgam.tasks.sae.rules import BatchTopK, TopK

DRAW = torch.Generator().manual_seed(0)
BEFORE = torch.randn(50, 8, generator=DRAW)
AFTER = BEFORE + 0.5 * torch.randn(50, 8, generator=DRAW)
ROTATION = torch.linalg.qr(torch.randn(8, 8, generator=DRAW)).Q


def autoencoder(rule) -> SparseAutoencoder:
    info = SAEInfo(width=8, backbone="b", num_latents=24, sparsity=rule)
    return initial(info, SAETrainConfig(), torch.zeros(8), seed=0)


def measured(before, after, sae=None, batch_size=50) -> dict[str, float]:
    meter = DriftMeter(sae)
    for one, other in zip(before.split(batch_size), after.split(batch_size), strict=True):
        meter.update(one, other)
    return meter.result()


def cka_of_grams(x, y):
    """tr(K H L H) / sqrt(tr(K H K H) tr(L H L H)), examples x examples."""
    x, y = unit_norm(x).double(), unit_norm(y).double()
    centre = torch.eye(len(x)) - 1 / len(x)
    k, l = (centre.double() @ (z @ z.T) @ centre.double() for z in (x, y))  # noqa: E741
    return ((k * l).sum() / (k.norm() * l.norm())).item()


def test_cka_is_that_of_the_gram_matrices_of_examples():
    assert measured(BEFORE, AFTER)["cka"] == pytest.approx(cka_of_grams(BEFORE, AFTER), abs=1e-9)


def test_rotated_features_are_the_same_to_cka_but_not_to_cosines():
    found = measured(BEFORE, BEFORE @ ROTATION)
    assert found["cka"] == pytest.approx(1, abs=1e-6) and found["cosine"] < 0.9


def test_nothing_moved_is_nothing_measured():
    found = measured(BEFORE, BEFORE, autoencoder(TopK(k=3)))
    assert found["cka"] == pytest.approx(1) and found["cosine"] == pytest.approx(1)
    assert (found["jaccard"], found["added"], found["removed"]) == (1, 0, 0)
    assert found["fvu_before"] == found["fvu_after"]


def test_activations_are_those_of_dense_codes():
    sae = autoencoder(TopK(k=3))
    found = measured(BEFORE, AFTER, sae)
    with torch.no_grad():
        before, after = (sae.encode(unit_norm(x)).dense() for x in (BEFORE, AFTER))
    assert found["activation_before"] == pytest.approx(before.sum(1).mean().item(), rel=1e-5)
    assert found["activation"] == pytest.approx(after.sum(1).mean().item(), rel=1e-5)
    assert found["new_activation"] == pytest.approx((after * (before == 0)).sum(1).mean().item(), rel=1e-5)
    assert found["l0"] == pytest.approx((after != 0).sum(1).double().mean().item())


@pytest.mark.parametrize("rule", [TopK(k=3), TopK(k=3, signed=True), BatchTopK(k=3)], ids=lambda rule: repr(rule))
def test_supports_are_compared_as_sets(rule):
    sae = autoencoder(rule)
    if isinstance(rule, BatchTopK):
        torch.nn.init.constant_(sae.threshold, 0.5)
    found = measured(BEFORE, AFTER, sae)
    with torch.no_grad():
        sets = [
            [set(row.nonzero().flatten().tolist()) for row in sae.encode(unit_norm(x)).dense()] for x in (BEFORE, AFTER)
        ]
        error = fvu(unit_norm(AFTER), sae(unit_norm(AFTER)))
    pairs = list(zip(*sets, strict=True))
    assert found["jaccard"] == pytest.approx(sum(len(a & b) / len(a | b) if a | b else 1 for a, b in pairs) / 50)
    assert found["added"] == pytest.approx(sum(len(b - a) for a, b in pairs) / 50)
    assert found["removed"] == pytest.approx(sum(len(a - b) for a, b in pairs) / 50)
    assert found["fvu_after"] == pytest.approx(error)


def test_top_k_adds_as_many_latents_as_it_removes():
    found = measured(BEFORE, AFTER, autoencoder(TopK(k=3, signed=True)))
    assert found["added"] == found["removed"] > 0


def test_batches_and_order_do_not_matter():
    sae, order = autoencoder(TopK(k=3)), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    whole = measured(BEFORE, AFTER, sae)
    assert measured(BEFORE[order], AFTER[order], sae, batch_size=7) == pytest.approx(whole, rel=1e-6)  # float32 codes


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no features"):
        DriftMeter().result()
