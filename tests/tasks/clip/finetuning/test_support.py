"""The off-support and selective penalties (method page, section 17), in float64."""

import pytest
import torch
from pydantic import ValidationError

from amalgam.tasks.clip.finetuning import support
from amalgam.tasks.clip.finetuning.drift import Drift, frozen
from amalgam.tasks.clip.finetuning.regularisers import (
    L2,
    OffSupport,
    OffSupportAddRemove,
    OffSupportLatents,
    Selective,
    Unfollowed,
)
from tests.tasks.clip.worlds import SmallTopK

BATCH, WIDTH = 6, 16
LATENTS = 64


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autoencoder(**settings):
    return frozen(SmallTopK(**{"normalised": False} | settings).double())


def drift(change=None, sae=None, seed=1):
    h0 = draw(BATCH, WIDTH, seed=seed)
    return Drift.between(h0 + (draw(BATCH, WIDTH, seed=2) if change is None else change), h0, sae or autoencoder())


def on_support(d, seed=3):
    """A change made of active atoms alone."""
    codes = d.frozen_codes
    return torch.einsum("bk,bkd->bd", draw(*codes.values.shape, seed=seed), d.atoms[codes.indices])


@pytest.mark.parametrize("reduction", ["sum", "reference_mean"])
def test_equal_weights_inside_and_outside_are_l2(reduction):
    d = drift()
    torch.testing.assert_close(OffSupport(inside=1, reduction=reduction)(d), L2(reduction=reduction)(d))


def test_re_weighting_what_is_there_is_free():
    moved = drift(on_support(drift()))
    assert support.off_support_change(moved) < 1e-4 * moved.change.square().sum(1).mean()
    torch.testing.assert_close(support.on_support_change(moved), moved.change.square().sum(1).mean(), rtol=1e-3, atol=0)


def test_with_all_atoms_active_nothing_is_outside():
    d = drift(sae=autoencoder(num_latents=4 * WIDTH, k=4 * WIDTH))
    assert OffSupport()(d) < 1e-3 * L2()(d)


def test_without_an_active_latent_everything_is_outside():
    sae = autoencoder()
    sae.encoder.data.zero_()
    d = drift(sae=sae)
    torch.testing.assert_close(OffSupport()(d), L2()(d))
    assert OffSupport(outside=0, inside=1)(d) == 0


def test_a_change_orthogonal_to_the_active_atoms_is_outside_whole():
    d = drift()
    outside = d.change - torch.einsum(
        "bdk,bk->bd",
        q := torch.linalg.qr(d.atoms[d.frozen_codes.indices].transpose(1, 2)).Q,
        torch.einsum("bdk,bd->bk", q, d.change),
    )
    torch.testing.assert_close(OffSupport()(drift(outside)), L2()(drift(outside)))


def test_neither_scale_nor_order_of_atoms_matter():
    sae, other = autoencoder(), autoencoder()
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(0))
    other.encoder.data = sae.encoder[order]
    other.decoder.data = (sae.decoder * draw(LATENTS, 1).abs())[order]
    for penalty in (OffSupport(), OffSupportLatents(), OffSupportAddRemove()):
        torch.testing.assert_close(penalty(drift(sae=other)), penalty(drift(sae=sae)))


def test_nothing_jumps_when_a_latent_becomes_active():
    d = drift()
    values = torch.stack(
        [OffSupport()(drift(share * d.change)) for share in torch.linspace(0, 2, 41, dtype=torch.float64).tolist()]
    )
    curvature = values.diff().diff()  # a quadratic of the change has a constant one
    torch.testing.assert_close(curvature, curvature[:1].expand_as(curvature), rtol=1e-6, atol=1e-12)


def test_increases_and_decreases_add_up_to_the_change_of_inactive_latents():
    d, back = drift(), drift(-drift().change)
    torch.testing.assert_close(support.added_latents(d) + support.added_latents(back), support.off_support_latents(d))


def test_only_fading_latents_are_removed():
    d = drift()
    grown = torch.einsum("bk,bkd->bd", d.frozen_codes.values, d.atoms[d.frozen_codes.indices])
    assert support.removed_latents(drift(0.5 * grown)) < 1e-6 * support.removed_latents(drift(-0.5 * grown))


def test_equal_weights_for_all_latents_are_the_change_along_all_atoms():
    d = drift()
    along = d.change @ torch.nn.functional.normalize(d.atoms, dim=1).T
    torch.testing.assert_close(Selective(others=1)(d), along.square().sum(1).mean())


def test_forbidding_and_keeping_every_latent_are_its_two_halves():
    d, every = drift(), tuple(range(LATENTS))
    torch.testing.assert_close(Selective(forbid=every)(d) + Selective(keep=every)(d), Selective(others=1)(d))


def test_forbidding_nothing_is_plain_fine_tuning():
    assert Selective().needs == frozenset() and Selective().parts(drift()) == {}


def test_a_forbidden_latent_may_shrink_and_a_kept_one_grow():
    d = drift()
    atom = d.atoms[5:6].expand(BATCH, -1)
    assert Selective(forbid=(5,))(drift(atom)) > 0.9 and Selective(keep=(5,))(drift(atom)) == 0
    assert Selective(forbid=(5,))(drift(-atom)) == 0 and Selective(keep=(5,))(drift(-atom)) > 0.9


@pytest.mark.parametrize("settings", [{"forbid": (1, 2), "keep": (2, 3)}, {"forbid": (-1,)}, {"others": -1.0}])
def test_rules_that_contradict_or_name_no_latent_are_refused(settings):
    with pytest.raises(ValidationError):
        Selective(**settings)


def test_a_latent_that_the_autoencoder_lacks_is_refused():
    with pytest.raises(ValueError, match=r"64 latents.*latent 64"):
        Selective(forbid=(64,))(drift())


def test_what_follows_a_forbidden_latent_is_its_slope():
    h0, sae = draw(200, WIDTH, seed=1), autoencoder()
    before = Drift.between(h0, h0, sae)
    latent = int(before.frozen_codes.indices.flatten().mode().values)
    activation = before.frozen_codes.dense()[:, latent]
    direction = draw(WIDTH, seed=4)
    follows = Drift.between(h0 + 0.7 * activation[:, None] * direction, h0, sae)
    rule = Unfollowed(forbid=(latent,), weight=0)
    expected = 0.49 * activation.var(correction=0) * direction.square().sum()
    torch.testing.assert_close(rule(follows), expected, rtol=1e-4, atol=0)
    assert rule(Drift.between(h0 + direction, h0, sae)) < 1e-12  # the same change for all images follows nothing


def test_following_is_not_asked_where_nothing_is_forbidden():
    assert Unfollowed().parts(drift()) == {} and Unfollowed().needs == frozenset()
    torch.testing.assert_close(Unfollowed(forbid=(5,), follow=0)(drift()), Selective(forbid=(5,))(drift()))


def test_a_latent_counts_as_its_weight_says():
    one, other = (Selective(forbid=(latent,))(drift()) for latent in (5, 9))
    weighted = Selective(forbid=(5, 9), weights=((5, 3.0),))(drift())
    torch.testing.assert_close(weighted, 3 * one + other)
    with pytest.raises(ValidationError, match="latent 7 has a weight"):
        Selective(forbid=(5,), weights=((7, 1.0),))
