"""Cards say what the codes say, whichever way they are computed; new latents are those that no other dictionary has."""

import torch

from amalgam.tasks.explain.active import Active
from amalgam.tasks.explain.clamps import ClampTable
from amalgam.tasks.explain.latents.cards import NUM_BINS, by_cofiring, by_cosine, cards_of, histograms, pictures
from amalgam.tasks.explain.latents.new import second_autoencoder
from amalgam.tasks.explain.latents.parts import grid_parts
from amalgam.tasks.explain.latents.places import active_patches
from amalgam.tasks.explain.significance import paired_interval
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.codes import largest
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import matched, matched_cosines
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.sae.training.train import train
from tests.tasks.explain.worlds import random_batch, random_comparison
from tests.tasks.sae.planted import planted


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_histograms_count_every_positive_activation_once():
    batch = random_batch()
    found, highest = histograms(batch.active), torch.maximum(batch.s0.dense(), batch.s1.dense()).amax(0)
    torch.testing.assert_close(found.highest, highest)
    for side, codes in (("before", batch.s0.dense()), ("after", batch.s1.dense())):
        for latent in range(codes.shape[1]):
            values = codes[:, latent][codes[:, latent] > 0]
            expected = (
                torch.histc(values, NUM_BINS, 0, highest[latent].item()) if len(values) else torch.zeros(NUM_BINS)
            )
            assert found.counts[side][latent].sum() == len(values)
            assert (found.counts[side][latent].cumsum(0) - expected.cumsum(0)).abs().max() <= 1  # ties at edges


def test_pictures_stand_at_the_quantiles_that_they_say():
    values = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).double() + 0.1
    values[:, 1] = 0
    values[:4, 1] = torch.tensor([3.0, 1.0, 2.0, 4.0])
    codes = largest(values, 2)
    found = pictures(Active.of(codes, codes), [1, 0])
    few, many = found.latents == 1, found.latents == 0
    assert found.images[few].tolist() == [3, 0, 2, 1]
    torch.testing.assert_close(found.quantiles[few], torch.tensor([1, 2 / 3, 1 / 3, 0]).double())
    assert int(many.sum()) == 15 and len(found.images[many].unique()) == 15
    for image, quantile in zip(found.images[many], found.quantiles[many], strict=True):
        weaker = (values[:, 0] < values[image, 0]).double().sum() / 199
        assert abs(weaker - quantile) < 1e-9


def test_neighbours_are_those_of_all_pairs():
    batch = random_batch()
    fired = (batch.s1.dense() != 0).double()
    both = fired.T @ fired
    jaccard = both / (fired.sum(0)[:, None] + fired.sum(0) - both).clamp(min=1)
    unit = unit_norm(batch.by.atoms)
    for found, likeness in ((by_cofiring(batch.active, 5), jaccard), (by_cosine(batch.by.atoms, 5), unit @ unit.T)):
        likeness.fill_diagonal_(-torch.inf)
        torch.testing.assert_close(found.values.double(), likeness.topk(5, dim=1).values, rtol=0, atol=1e-6)
        torch.testing.assert_close(likeness.gather(1, found.latents), found.values.double(), rtol=0, atol=1e-6)


def test_what_a_latent_writes_is_its_effect_on_logits_free_of_what_all_classes_share():
    by = random_comparison()
    writes = cards_of(by, random_batch().active).writes
    logits = by.atoms[3] @ by.weights[1].T
    torch.testing.assert_close(writes[3], logits - logits.mean())


def test_intervals_cover_the_true_change_of_paired_shares():
    gained, lost, images, trials = 0.06, 0.03, 300, 2000
    kinds = torch.rand(trials, images, generator=torch.Generator().manual_seed(0))
    more, less = (kinds < gained).sum(1).double(), ((kinds >= gained) & (kinds < gained + lost)).sum(1).double()
    low, high = paired_interval(more, less, images)
    covered = ((low <= gained - lost) & (gained - lost <= high)).double().mean()
    assert 0.935 < covered < 0.975
    table = ClampTable(images, more, less, less)
    assert (table.interval[0] <= table.accuracy_change).all() and (table.accuracy_change <= table.interval[1]).all()


def test_a_patch_is_active_where_the_atom_was_planted():
    by = random_comparison()
    patches = 0.01 * draw(2, 3, 4, by.atoms.shape[1])
    patches[0, 1, 2] += by.sae.encoder[5].detach() + by.sae.bias.detach()
    patches[1, 0, 3] += by.sae.encoder[7].detach() + by.sae.bias.detach()
    found = active_patches(by.sae, patches, torch.tensor([5, 7]))
    assert found[0, 1, 2] and found[1, 0, 3]


def test_patches_are_marked_by_parts_of_the_grid():
    by, parts = random_comparison(), grid_parts(8, 6, 5)
    patches = 0.01 * draw(1, 8, 6, by.atoms.shape[1])
    inside = (parts.cells == 3).reshape(1, 8, 6)
    patches[inside] += by.sae.encoder[5].detach() + by.sae.bias.detach()
    assert torch.equal(active_patches(by.sae, patches, torch.tensor([5]), num_parts=5), inside)


def test_matches_are_those_of_the_assignment_and_follow_the_atoms():
    atoms = unit_norm(draw(40, 16))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(matched(atoms, atoms[order]), torch.ones(40).double())
    other = unit_norm(atoms + 0.3 * draw(40, 16, seed=2))
    torch.testing.assert_close(matched(atoms, other).sum(), matched_cosines(atoms, other).sum(), rtol=0.02, atol=0)
    torch.testing.assert_close(matched(atoms[order], other), matched(atoms, other)[order])


def test_a_direction_that_only_tuned_features_have_is_new_and_equal_networks_have_none():
    about = FeatureInfo(width=16, normalised=True, backbone="planted")
    training = SAETrainConfig(epochs=None, steps=250, batch_size=256, learning_rate=1e-2)
    before = planted(2000)[0][:, :16].float()
    before[:, 15] = 0
    after = before.clone()
    after[::4, 15] = before.norm(dim=1)[::4] * 2  # a direction that no feature had
    specs = [SAESpec(sparsity=TopK(k=2), expansion=2)]
    (sae,) = train(unit_norm(before), about, specs, training, log=lambda *_: None)
    assert len(second_autoencoder(sae, before, before, training).latents) == 0
    found = second_autoencoder(sae, before, after, training)
    atoms = found.sae.decoder.detach()[found.latents]
    assert len(found.latents) and (found.likeness < 0.7).all() and atoms[:, 15].abs().max() > 0.7
