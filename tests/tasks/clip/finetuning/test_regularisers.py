"""Laws of every regulariser (method page, section 12), in float64, where an exact law differs from a close one."""

import math
from dataclasses import replace

import ot
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from amalgam.tasks.clip.finetuning import terms
from amalgam.tasks.clip.finetuning.drift import Drift, frozen, principal_directions
from amalgam.tasks.clip.finetuning.regulariser import Sizes, strength_at_width
from amalgam.tasks.clip.finetuning.regularisers import (
    L1,
    L2,
    L2SP,
    LDIFS,
    PCA,
    REGULARISERS,
    AddRemove,
    NoPenalty,
    Nuclear,
    OffSupport,
    Regulariser,
    SAEMask,
    Selective,
    SparseChange,
    SparseKL,
    SparseWasserstein,
    SquaredHingeNuclear,
    SupportHinge,
    Unfollowed,
)
from amalgam.tasks.sae import BatchTopK, JumpReLU, Matryoshka, SAEInfo, SAETrainConfig, TopK
from amalgam.tasks.sae.autoencoder import initial
from tests.tasks.clip.worlds import SmallTopK

BATCH, WIDTH, NUM_LATENTS, K = 6, 16, 64, 4
each_regulariser = pytest.mark.parametrize("kind", REGULARISERS)
OF_CODES = [kind for kind in REGULARISERS if "sae" in kind().needs]
# Entropy blurs the plan between equal codes, and logarithms round: close to 0 there, not exactly (section 12).
CLOSE_AT_START = (SparseWasserstein, SparseKL)
EXACT_AT_START = [kind for kind in REGULARISERS if kind not in CLOSE_AT_START]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autoencoder(**settings) -> SmallTopK:
    return frozen(SmallTopK(**settings).double())


def drift(h: Tensor, h0: Tensor, sae: SmallTopK | None = None, **settings) -> Drift:
    """A drift that holds what any regulariser reads, all of it a function of the features h and h0."""
    mix = draw(WIDTH, 3 * 8, seed=9).to(h)
    levels = [tuple(((level + 1) * x @ mix).reshape(-1, 3, 8) for x in (h, h0)) for level in range(5)]
    basis = principal_directions(draw(40, WIDTH, seed=8), 5)
    return Drift.between(
        h, h0, sae or autoencoder(), levels=levels, basis=basis, parameters=[(h.sum(0), h0.sum(0)), (h, h0)], **settings
    )


def moved(scale: float = 0.5) -> tuple[Tensor, Tensor]:
    h0 = draw(BATCH, WIDTH, seed=1)
    return (h0 + scale * draw(BATCH, WIDTH, seed=2)).requires_grad_(), h0


def value_and_gradient(regulariser: Regulariser, h: Tensor, h0: Tensor, **settings) -> tuple[Tensor, Tensor]:
    h = h.detach().clone().requires_grad_()
    penalty = regulariser(drift(h, h0, **settings))
    # NoPenalty does not depend on h at all.
    return penalty.detach(), torch.autograd.grad(penalty + 0 * h.sum(), h)[0]


@pytest.mark.parametrize("kind", EXACT_AT_START)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_before_the_first_step_penalty_and_gradient_are_exactly_zero(kind, dtype):
    h0 = draw(BATCH, WIDTH, seed=1).to(dtype)
    sae = frozen(SmallTopK().to(dtype))
    penalty, gradient = value_and_gradient(kind(), h0, h0, sae=sae)
    assert penalty == 0 and not gradient.any()


def test_before_the_first_step_the_divergence_is_zero_and_hardly_pulls():
    h0 = draw(BATCH, WIDTH, seed=1)
    penalty, gradient = value_and_gradient(SparseKL(divergence=1.0), h0, h0)
    assert penalty == 0 and gradient.abs().max() < 1e-12


@each_regulariser
def test_moved_features_pay_and_are_pulled_back(kind):
    regulariser = SquaredHingeNuclear(ceiling=0.1) if kind is SquaredHingeNuclear else kind()
    h, h0 = moved()
    penalty, gradient = value_and_gradient(regulariser, h, h0)
    assert (penalty > 0) == (kind not in (NoPenalty, Selective, Unfollowed))  # nothing is selected
    if penalty:
        closer = value_and_gradient(regulariser, h - 1e-4 * gradient / gradient.norm(), h0)[0]
        assert closer < penalty


@each_regulariser
def test_gradients_are_those_of_finite_differences(kind):
    h, h0 = moved()
    regulariser = SquaredHingeNuclear(ceiling=0.1) if kind is SquaredHingeNuclear else kind(reduction="sum")
    assert torch.autograd.gradcheck(lambda x: regulariser(drift(x, h0)), (h,), eps=1e-7, atol=1e-5)


@each_regulariser
def test_anchors_and_autoencoder_get_no_gradient(kind):
    h, h0 = moved()
    sae, h0 = autoencoder(), h0.requires_grad_()
    penalty = kind()(drift(h, h0, sae))
    if penalty.requires_grad:
        penalty.backward()
        assert h.grad is not None
    assert h0.grad is None and all(parameter.grad is None for parameter in sae.parameters())


@pytest.mark.parametrize("sparsity", [TopK(k=K), BatchTopK(k=K), JumpReLU(target_l0=K, start=0.3), Matryoshka(k=K)])
@pytest.mark.parametrize("kind", OF_CODES)
def test_every_rule_of_sparsity_can_be_the_anchor(kind, sparsity):
    info = SAEInfo(width=WIDTH, backbone="random", num_latents=NUM_LATENTS, sparsity=sparsity)
    sae = frozen(initial(info, SAETrainConfig(), torch.zeros(WIDTH), 0).double())
    h, h0 = (x.detach() for x in moved())
    penalty, gradient = value_and_gradient(kind(), h, h0, sae=sae)
    assert penalty > 0 and gradient.isfinite().all() and gradient.any()
    assert kind in CLOSE_AT_START or value_and_gradient(kind(), h0, h0, sae=sae)[0] == 0


def test_an_autoencoder_that_would_learn_is_refused():
    with pytest.raises(ValueError, match=r"frozen\(sae\)"):
        drift(*moved(), SmallTopK().double())


@pytest.mark.parametrize("kind", [k for k in REGULARISERS if k not in (LDIFS, L2SP)])
def test_normalised_penalties_do_not_see_the_length_of_features(kind):
    h, h0 = (draw(BATCH, WIDTH, seed=seed) for seed in (1, 2))
    expected = kind()(drift(h, h0))
    torch.testing.assert_close(kind()(drift(3 * h, 0.5 * h0)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("normalise", [True, False])
def test_features_are_given_to_the_autoencoder_as_it_was_trained(normalise):
    h, h0 = moved()
    sae = autoencoder(normalised=normalise)
    assert torch.allclose(drift(h, h0, sae).current.norm(dim=1), torch.ones(BATCH).double()) == normalise
    with pytest.raises(ValueError, match="normalised="):
        drift(h, h0, sae, normalise=not normalise)


@each_regulariser
def test_shuffled_images_and_halves_of_a_batch_pay_the_same(kind):
    if kind in (Nuclear, SquaredHingeNuclear, L2SP):
        pytest.skip("not a mean over images")
    h, h0 = (x.detach() for x in moved())
    whole = kind()(drift(h, h0))
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(kind()(drift(h[order], h0[order])), whole)
    halves = [kind()(drift(h[part], h0[part])) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("kind", OF_CODES)
def test_renumbered_latents_and_another_bias_of_the_decoder_change_nothing(kind):
    h, h0 = (x.detach() for x in moved())
    sae, renumbered = autoencoder(), autoencoder()
    order = torch.randperm(NUM_LATENTS, generator=torch.Generator().manual_seed(0))
    renumbered.decoder.data, renumbered.encoder.data = sae.decoder[order], sae.encoder[order]
    torch.testing.assert_close(kind()(drift(h, h0, renumbered)), kind()(drift(h, h0, sae)))


def test_equal_supports_cost_nothing_whatever_the_magnitudes():
    d = drift(*moved())
    same = replace(d.frozen_codes, values=d.frozen_codes.values * torch.rand(BATCH, K).double() * 5)
    d.__dict__["codes"] = same
    assert terms.new_latents(d) == 0


def test_disjoint_supports_cost_all_their_activation():
    d = drift(*moved())
    d.__dict__["codes"] = replace(d.codes, indices=_outside(d.frozen_codes.indices))
    parts = SAEMask().parts(d)
    torch.testing.assert_close(parts["new_latents"], 10 * d.codes.values.abs().sum(1).mean() / NUM_LATENTS)
    lost = AddRemove(reduction="sum", lost=1.0).parts(d)["lost_latents"]
    torch.testing.assert_close(lost, d.frozen_codes.values.relu().sum(1).mean())


def _outside(indices: Tensor) -> Tensor:
    """As many other latents, for each example."""
    inside = torch.zeros(len(indices), NUM_LATENTS).scatter(1, indices, 1.0)
    return inside.argsort(1)[:, :K]


def test_as_many_latents_are_added_as_removed():
    d = drift(*moved(2.0))
    added, removed = (~d.shared.any(2)).sum(1), (~d.shared.any(1)).sum(1)
    assert torch.equal(added, removed) and added.any()


def test_the_residual_is_the_change_of_what_the_autoencoder_does_not_explain():
    h, h0 = moved()
    d = drift(h, h0)

    def error(z, codes):
        return z - (codes.dense() @ d.sae.decoder + d.sae.bias)

    expected = error(d.current, d.codes) - error(d.frozen, d.frozen_codes)
    torch.testing.assert_close(d.unexplained, expected)
    torch.testing.assert_close(terms.unexplained_change(d), expected.square().sum(1).mean())


def test_a_change_made_of_atoms_alone_has_no_residual():
    sae = autoencoder(num_latents=WIDTH, k=4, normalised=False)
    basis = torch.linalg.qr(draw(WIDTH, WIDTH))[0]
    sae.decoder.data, sae.encoder.data = basis, basis.clone()
    d0 = Drift.between(*(x.detach() for x in moved()), sae)
    codes = d0.frozen_codes
    larger = d0.frozen + replace(codes, values=0.5 * codes.values.abs()).decode(basis)
    d = Drift.between(larger, d0.frozen, sae)
    assert torch.equal(d.codes.indices.sort().values, codes.indices.sort().values)
    torch.testing.assert_close(terms.unexplained_change(d), torch.zeros(()).double(), rtol=0, atol=1e-24)
    assert terms.new_latents(d) == 0 and terms.latent_change(d) > 0.1


def test_the_reference_form_is_the_formula_of_the_reference():
    """Section 3.3, written out on dense codes and matrices."""
    h, h0 = (x.detach() for x in moved())
    d = drift(h, h0)
    z, z0 = (x / (x.norm(dim=1, keepdim=True) + 1e-8) for x in (h, h0))
    dz, s, s0 = z - z0, _dense(d.sae, z), _dense(d.sae, z0)
    mask, ds, atoms = s0 != 0, s - s0, d.sae.decoder
    residual = (dz - ds @ atoms).square().mean()
    inside = dz @ d.basis
    mask_loss = 10 * (s.abs() * ~mask).mean() + residual
    sparse = 1e-3 * ds.abs().mean() + residual
    tokens = [[x / (x.norm(dim=-1, keepdim=True) + 1e-8) for x in pair] for pair in d.levels]
    p, p0 = (x.relu() / (x.relu().sum(1, keepdim=True) + 1e-8) for x in (s, s0))
    kl = (p0 * ((p0 + 1e-8) / (p + 1e-8)).log()).sum(1).mean()
    expected = {
        NoPenalty: torch.zeros(()).double(),
        L2: dz.square().mean(),
        L1: dz.abs().mean(),
        Nuclear: torch.linalg.svdvals(dz).sum(),
        LDIFS: torch.stack([(new - old).square().mean() for new, old in tokens]).mean(),
        PCA: 1e-3 * inside.abs().mean() + (dz - inside @ d.basis.T).square().mean(),
        SparseChange: sparse,
        SparseKL: sparse + 0.1 * kl,
        SAEMask: mask_loss,
        AddRemove: mask_loss + 0.02 * (mask * (s0 - s).relu()).mean(),
        L2SP: (h - h0).square().sum() + (h.sum(0) - h0.sum(0)).square().sum(),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(kind()(d), value, rtol=1e-6, atol=1e-9, msg=kind.__name__)
    ceiling = expected[Nuclear] - 0.5
    torch.testing.assert_close(SquaredHingeNuclear(ceiling=ceiling.item())(d), torch.tensor(0.25).double())


def _dense(sae: SmallTopK, z: Tensor) -> Tensor:
    p = (z - sae.bias) @ sae.encoder.T
    least = p.sort(dim=1, descending=True).values[:, K - 1 : K]
    return p * (p >= least)


@pytest.mark.parametrize("form", ["sum", "relative_sum"])
@each_regulariser
def test_all_forms_are_one_penalty_with_other_weights(kind, form):
    d = drift(*moved())
    mean = kind()
    total = mean.in_form(form, Sizes.of(d))
    assert total.reduction == form
    torch.testing.assert_close(total(d), mean(d), rtol=1e-12, atol=0)
    torch.testing.assert_close(total.in_form("reference_mean", Sizes.of(d))(d), mean(d), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [L2, SAEMask, AddRemove, SupportHinge, OffSupport, PCA])
def test_a_strength_as_a_sum_is_that_of_the_mean_over_the_width(kind):
    d = drift(*moved())
    summed = kind(reduction="relative_sum")
    torch.testing.assert_close(1.5 * summed(d), 1.5 * WIDTH * kind()(d))
    assert strength_at_width(100, 64, 512) == 800


@pytest.mark.parametrize("kind", [k for k in REGULARISERS if k is not L2SP])  # of weights, not of features
def test_longer_features_pay_the_same_with_converted_weights(kind):
    h, h0 = (x.detach() for x in moved())
    sae, longer = autoencoder(normalised=False), autoencoder(normalised=False)
    longer.bias.data = 7 * sae.bias
    regulariser = SquaredHingeNuclear(ceiling=0.1) if kind is SquaredHingeNuclear else kind()
    regulariser = SupportHinge(margin=0.2) if kind is SupportHinge else regulariser
    expected = regulariser(drift(h, h0, sae))
    torch.testing.assert_close(regulariser.at_length(7)(drift(7 * h, 7 * h0, longer)), expected)


def test_the_papers_weights_in_the_form_of_sums_are_those_of_the_method_page():
    sums = SAEMask().in_form("sum", Sizes(features=512, latents=2048))
    assert 70 * sums.new == pytest.approx(0.342, abs=5e-4) and 70 * sums.residual == pytest.approx(0.137, abs=5e-4)


def test_a_conversion_that_lacks_a_size_is_refused():
    with pytest.raises(ValueError, match="latents"):
        SAEMask().in_form("sum", Sizes(features=512))


@pytest.mark.parametrize("seed", range(5))
def test_divergence_and_transport_are_never_negative_and_transport_has_a_ceiling(seed):
    d = drift(draw(BATCH, WIDTH, seed=seed), draw(BATCH, WIDTH, seed=seed + 50))
    atoms = torch.nn.functional.normalize(d.atoms, dim=1)
    assert terms.divergence(d) >= 0
    assert 0 <= terms.transport_cost(d, 0.05) <= (1 - atoms @ atoms.T).max()


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_transport_exceeds_the_exact_optimum_by_no_more_than_entropy_can_gain(epsilon):
    """A plan between K and K active latents has an entropy of at most 2 log K."""
    d = drift(draw(2, WIDTH), draw(2, WIDTH, seed=1))
    cosines = torch.nn.functional.normalize(d.atoms, dim=1)
    cosines = cosines @ cosines.T
    exact = [
        ot.emd2(*(mass / mass.sum() for mass in (before, now)), (1 - cosines).clamp(min=0))
        for before, now in zip(d.frozen_codes.dense().relu(), d.codes.dense().relu(), strict=True)
    ]
    excess = terms.transport_cost(d, epsilon) - torch.stack(exact).mean()
    assert 0 <= excess <= epsilon * 2 * math.log(K)


@pytest.mark.parametrize("seed", range(4))
def test_transport_is_that_of_a_plan_that_has_converged(seed):
    d = drift(draw(BATCH, WIDTH, seed=seed), draw(BATCH, WIDTH, seed=seed + 50))
    atoms = torch.nn.functional.normalize(d.atoms, dim=1)
    cost = (1 - atoms[d.frozen_codes.indices] @ atoms[d.codes.indices].transpose(1, 2)).relu()
    masses = [codes.values.relu() / codes.values.relu().sum(1, keepdim=True) for codes in (d.frozen_codes, d.codes)]
    expected = [
        (ot.sinkhorn(*(mass + 1e-30 for mass in pair), c, 0.05, "sinkhorn_log", 100_000, 1e-12) * c).sum()
        for *pair, c in zip(*masses, cost, strict=True)
    ]
    torch.testing.assert_close(terms.transport_cost(d, 0.05), torch.stack(expected).mean(), rtol=1e-7, atol=1e-9)


def test_transport_between_far_atoms_costs_what_they_are_apart():
    sae = autoencoder(num_latents=WIDTH, k=2, normalised=False)
    sae.decoder.data = sae.encoder.data = torch.eye(WIDTH).double()
    sae.bias.data.zero_()
    one, other = torch.zeros(2, 1, WIDTH).double()
    one[0, :2], other[0, 1:3] = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    same, half = (Drift.between(x, one, sae) for x in (one, other))
    torch.testing.assert_close(terms.transport_cost(same, 0.05), torch.zeros(()).double(), rtol=0, atol=1e-6)
    # 3/4 and 1/4 become 1/2 and 1/2, of which 1/4 stays where it is.
    torch.testing.assert_close(terms.transport_cost(half, 0.05), torch.tensor(0.75).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", OF_CODES)
def test_codes_without_any_activation_are_finite(kind):
    h, h0 = (x.detach() for x in moved())
    sae = autoencoder()
    sae.encoder.data.zero_()
    penalty, gradient = value_and_gradient(kind(), h, h0, sae=sae)
    assert penalty.isfinite() and gradient.isfinite().all()


def test_the_hinge_acts_before_a_latent_becomes_active_and_does_not_jump():
    sae = autoencoder(num_latents=WIDTH, k=1, normalised=False)
    sae.decoder.data = sae.encoder.data = torch.eye(WIDTH).double()
    sae.bias.data.zero_()
    start, end = torch.eye(WIDTH).double()[:1], torch.eye(WIDTH).double()[1:2]

    def at(position: float, margin: float) -> tuple[float, float]:
        d = Drift.between(start + position * end, start, sae)
        return terms.support_excess(d, margin).item(), terms.new_latents(d).item()

    assert at(0.9, 0.0) == (0.0, 0.0) and at(0.9, 0.25)[0] == pytest.approx(0.15)
    assert at(1.001, 0.0) == (pytest.approx(0.001), pytest.approx(1.001))


def test_half_precision_features_are_penalised_in_single():
    h, h0 = (x.detach().to(torch.bfloat16) for x in moved())
    sae, tokens, wide = frozen(SmallTopK()), [(h[:, None], h0[:, None])], [(h[:, None].float(), h0[:, None].float())]
    with torch.autocast("cpu", torch.bfloat16):
        for kind in (L2, SAEMask, SparseWasserstein, SupportHinge, LDIFS):
            penalty = kind()(Drift.between(h, h0, sae, levels=tokens))
            assert penalty.dtype == torch.float32
            torch.testing.assert_close(penalty, kind()(Drift.between(h.float(), h0.float(), sae, levels=wide)))


def test_terms_of_weight_zero_are_not_computed_and_need_nothing():
    h, h0 = moved()
    assert PCA(inside=0.0, outside=0.0).needs == frozenset()
    assert set(SAEMask(residual=0.0).parts(drift(h, h0))) == {"new_latents"}


@pytest.mark.parametrize(
    ("kind", "message"), [(SAEMask, "needs sae"), (LDIFS, "levels"), (PCA, "basis"), (L2SP, "param")]
)
def test_a_drift_that_lacks_what_is_needed_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        kind()(Drift.between(*moved()))


def test_features_and_anchors_of_different_images_are_refused():
    with pytest.raises(ValueError, match="anchors"):
        Drift.between(draw(3, WIDTH), draw(4, WIDTH))


@pytest.mark.parametrize("settings", [{"new": -1.0}, {"reduction": "mean"}, {"neww": 1.0}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        SAEMask(**settings)


def test_too_many_principal_directions_are_refused():
    with pytest.raises(ValueError, match="17"):
        principal_directions(draw(40, WIDTH), 17)
