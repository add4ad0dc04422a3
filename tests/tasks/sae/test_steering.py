"""Steered features: what is not named stays to the bit, what is named changes along its atom alone."""

import pytest
import torch

from amalgam.tasks.sae import SAEInfo, SAETrainConfig, TopK
from amalgam.tasks.sae.autoencoder import initial, unit_norm
from amalgam.tasks.sae.steering import Steered

WIDTH, LATENTS = 12, 40


def autoencoder(normalised=True):
    info = SAEInfo(width=WIDTH, backbone="random", num_latents=LATENTS, sparsity=TopK(k=5), normalised=normalised)
    return initial(info, SAETrainConfig(), torch.zeros(WIDTH), 0).double()


def features(count=8):
    return 3 * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("settings", [{}, {"scale": {3: 1.0, 7: 1.0}}])
def test_rules_that_change_nothing_leave_features_to_the_bit(settings):
    assert torch.equal(Steered(torch.nn.Identity(), autoencoder(), **settings)(features()), features())


@pytest.mark.parametrize("normalised", [True, False])
def test_removed_latents_take_their_part_of_the_reconstruction_along(normalised):
    sae, z = autoencoder(normalised), features()
    length = z.norm(dim=1, keepdim=True) if normalised else 1
    codes = sae.sparse(sae.pre_activations(unit_norm(z) if normalised else z))
    active = codes.indices[0].tolist()
    found = Steered(torch.nn.Identity(), sae, remove=active)(z)
    kept = codes.dense().index_fill(1, torch.tensor(active), 0)
    expected = z + length * ((kept - codes.dense()) @ sae.decoder)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_clamped_latent_moves_features_along_its_atom():
    sae, z = autoencoder(), features()
    change = Steered(torch.nn.Identity(), sae, clamp={4: 2.0})(z) - z
    activation = sae.sparse(sae.pre_activations(unit_norm(z))).dense()[:, 4]
    expected = z.norm(dim=1, keepdim=True) * (2 - activation)[:, None] * sae.decoder[4]
    torch.testing.assert_close(change, expected, rtol=1e-6, atol=1e-6)


def test_a_steered_encoder_is_exported_whole():
    module = Steered(torch.nn.Linear(6, WIDTH), autoencoder().float(), scale={2: 3.0}, remove=(5,)).eval()
    images = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(module, (images,)).module()
    torch.testing.assert_close(exported(images), module(images))


@pytest.mark.parametrize(
    "settings, latent", [({"remove": (40,)}, 40), ({"scale": {3: 2.0}, "remove": (3,)}, 3), ({"clamp": {-1: 0.0}}, -1)]
)
def test_latents_without_one_clear_rule_are_refused(settings, latent):
    with pytest.raises(ValueError, match=f"latent {latent}"):
        Steered(torch.nn.Identity(), autoencoder(), **settings)
