"""Laws of the sparsity rules and of encoding and decoding."""

import copy
import re

import pytest
import torch

from amalgam.tasks.sae.autoencoder import SparseAutoencoder, initial, unit_norm
from amalgam.tasks.sae.codes import DenseCodes, jump_relu, largest, largest_of_batch
from amalgam.tasks.sae.config import FeatureInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from tests.tasks.sae.planted import RULES, WIDTH, info, planted

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)


def autoencoder(rule, **about):
    """An untrained autoencoder whose rule keeps some latents of planted features."""
    sae = initial(info(rule, **about), SAETrainConfig(), planted(64)[0].mean(0), seed=7)
    if hasattr(sae, "threshold"):
        torch.nn.init.constant_(sae.threshold, 0.3)
    return sae.requires_grad_(False)


@pytest.mark.parametrize("signed", [False, True])
def test_top_k_keeps_the_k_largest_and_their_values(signed):
    pre = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    codes = largest(pre, 5, signed)
    assert (codes.l0() == 5).all()
    assert torch.equal(codes.values, pre.gather(1, codes.indices))
    left = codes.dense().eq(0)
    assert (pre.masked_fill(~left, -torch.inf).amax(1) <= codes.values.amin(1)).all()


def test_negative_pre_activations_are_kept_only_if_signed():
    pre = torch.tensor([[-3.0, 2.0, -1.0, -2.0]])
    assert largest(pre, 3).dense().tolist() == [[0, 2, 0, 0]]
    assert largest(pre, 3, signed=True).dense().tolist() == [[0, 2, -1, -2]]


def test_a_constant_added_to_all_pre_activations_keeps_the_same_latents():
    pre = torch.randn(50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(largest(pre, 5).indices, largest(pre + 3.7, 5).indices)


@each_rule
def test_permuted_latents_permute_codes_and_leave_reconstructions(rule):
    sae, x = autoencoder(rule), planted(64)[0]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    permuted = copy.deepcopy(sae)
    for name, parameter in permuted.named_parameters():
        if name != "bias":
            parameter.copy_(sae.get_parameter(name)[order])
    torch.testing.assert_close(permuted.encode(x).dense(), sae.encode(x).dense()[:, order])
    torch.testing.assert_close(permuted(x), sae(x))


@each_rule
def test_sparse_and_dense_codes_decode_alike(rule):
    sae, x = autoencoder(rule), planted(64)[0]
    codes = sae.encode(x)
    assert codes.l0().float().mean() > 0
    torch.testing.assert_close(sae.decode(codes), sae.decode(codes.dense()), rtol=1e-5, atol=1e-5)
    stacked = torch.stack([sae.decoder, 2 * sae.decoder])
    pair = largest(sae.pre_activations(x)[:, None].expand(-1, 2, -1), 3)
    dense = DenseCodes(pair.dense())
    for prefix in (20, 64):
        sparse_sum, dense_sum = (c.prefix(prefix).decode(stacked) for c in (pair, dense))
        torch.testing.assert_close(sparse_sum, dense_sum, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pair.prefix(prefix).fired(), dense.prefix(prefix).fired())


@each_rule
def test_codes_of_an_example_do_not_depend_on_its_batch(rule):
    sae, x = autoencoder(rule), planted(64)[0]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    whole = sae.encode(x).dense()
    torch.testing.assert_close(sae.encode(x[order]).dense(), whole[order])
    torch.testing.assert_close(torch.cat([sae.encode(part).dense() for part in x.split(7)]), whole)


def test_the_training_rule_of_batch_top_k_does_depend_on_the_batch():
    pre = torch.tensor([[[5.0, 4.0, 3.0]], [[2.0, 1.0, 0.5]]])
    together, smallest = largest_of_batch(pre, [1])
    assert together.values[:, 0].tolist() == [[5, 4, 0], [0, 0, 0]] and smallest.tolist() == [4]
    assert largest_of_batch(pre[1:], [1])[0].values[0, 0].tolist() == [2, 0, 0]


def test_jump_relu_has_the_published_pseudo_derivatives():
    pre = torch.tensor([[[0.50, 0.52, 0.70, 0.48, 0.10]]], dtype=torch.float64, requires_grad=True)
    threshold = torch.full((1, 5), 0.5, dtype=torch.float64, requires_grad=True)
    codes, l0 = jump_relu(pre, threshold, bandwidth=0.1)
    assert codes.values[0, 0].tolist() == [0, 0.52, 0.70, 0, 0] and l0.tolist() == [[2]]
    by_pre, by_threshold = torch.autograd.grad(codes.values.sum(), (pre, threshold), retain_graph=True)
    assert by_pre[0, 0].tolist() == [0, 1, 1, 0, 0]
    torch.testing.assert_close(by_threshold[0].tolist(), [-5.0, -5.0, 0.0, -5.0, 0.0])
    (by_threshold,) = torch.autograd.grad(l0.sum(), threshold)
    torch.testing.assert_close(by_threshold[0].tolist(), [-10.0, -10.0, 0.0, -10.0, 0.0])


@each_rule
def test_longer_atoms_and_smaller_codes_reconstruct_the_same(rule):
    sae, x = autoencoder(rule), planted(64)[0]
    codes, factor = sae.encode(x).dense(), torch.linspace(0.5, 2, 64)
    rescaled = copy.deepcopy(sae)
    rescaled.decoder.mul_(factor[:, None])
    torch.testing.assert_close(rescaled.decode(codes / factor), sae.decode(codes))


@each_rule
def test_gradients_of_the_reconstruction_are_exact(rule):
    sae, x = autoencoder(rule).double(), planted(5)[0].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sae.decode(sae.encode(z)), x, atol=1e-6)
    assert all(parameter.grad is None for parameter in sae.parameters())


def test_autocast_does_not_change_which_latents_are_kept():
    sae, x = autoencoder(TopK(k=4)), planted(256)[0]
    with torch.autocast("cpu", torch.bfloat16):
        codes = sae.encode(x)
    assert codes.values.dtype == torch.float32
    assert torch.equal(codes.indices, sae.encode(x).indices)


def test_unit_vectors_stay_as_they_are_and_zero_stays_zero():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) * 30
    torch.testing.assert_close(unit_norm(unit_norm(x)), unit_norm(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(unit_norm(x).norm(dim=1), torch.ones(20))
    assert not unit_norm(torch.zeros(1, 8)).any()


def test_features_of_another_kind_are_refused():
    about = info(TopK(k=2))
    about.require(FeatureInfo(width=WIDTH, backbone="planted"))
    wrong = {"width": 8, "normalised": False, "backbone": "other"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
            about.require(FeatureInfo(**{"width": WIDTH, "backbone": "planted", name: value}))


def test_vectors_of_another_width_or_norm_are_refused():
    sae, x = autoencoder(TopK(k=2)), planted(8)[0]
    sae.encode(x.half())
    with pytest.raises(ValueError, match="width 16"):
        sae.encode(x[:, :5])
    for wrong in (10 * x, x.index_fill(0, torch.tensor([3]), 0), x.index_fill(0, torch.tensor([3]), torch.nan)):
        with pytest.raises(ValueError, match="norm"):
            sae.encode(wrong)
    SparseAutoencoder(info(TopK(k=2), normalised=False)).encode(10 * x)


@pytest.mark.parametrize("rule", [TopK(k=65), RULES[2].model_copy(update={"target_l0": 65})])
def test_more_active_latents_than_there_are_is_refused(rule):
    with pytest.raises(ValueError, match="64 latents"):
        info(rule)
