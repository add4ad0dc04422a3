"""The same numbers as SAELens itself, where it is installed: `make test-peers` installs it and runs these tests."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from amalgam.tasks.sae.config import FeatureInfo
from amalgam.tasks.sae.rules import Gated, ReLU, TopK
from amalgam.tasks.sae.saelens import from_saelens, to_saelens
from tests.tasks.sae.planted import ABOUT, planted
from tests.tasks.sae.test_codes import autoencoder, each_rule
from tests.tasks.sae.test_sae_training import stack

pytestmark = [
    pytest.mark.skipif(find_spec("sae_lens") is None, reason="SAELens is not installed: make peers"),
    # Not ours to mend: what SAELens and its dependencies warn of when they are imported.
    pytest.mark.filterwarnings("ignore"),
]


@each_rule
def test_saelens_reads_and_writes_the_folder(rule, tmp_path):
    import sae_lens as peer

    sae, x = autoencoder(rule), planted(64)[0]
    config, state = to_saelens(sae)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "sae_weights.safetensors")
    theirs = peer.SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(theirs.encode(x).detach(), sae.encode(x).dense())
    torch.testing.assert_close(theirs(x).detach(), sae(x))
    theirs.save_model(tmp_path / "again")
    config = json.loads((tmp_path / "again/cfg.json").read_text())
    back = from_saelens(config, load_file(tmp_path / "again/sae_weights.safetensors"), ABOUT)
    assert back.info == sae.info
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), sae.parameters(), strict=True))


THEIRS = {
    "standard": {},
    "gated": {"apply_b_dec_to_input": False},
    "gated, rescaled": {"normalize_activations": "constant_norm_rescale"},
    "topk": {"k": 4, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"normalize_activations": "constant_norm_rescale"},
    **{
        f"{kind}transcoder": {"d_out": 10, "apply_b_dec_to_input": False}
        for kind in ("", "skip_", "jumprelu_", "jumprelu_skip_")
    },
}


@pytest.mark.parametrize("kind", THEIRS)
def test_every_kind_that_saelens_writes_computes_the_same_and_is_read_back_there(kind, tmp_path):
    import sae_lens as peer
    from sae_lens.registry import get_sae_class

    kind_of_class, config_class = get_sae_class(kind.partition(",")[0])
    theirs = randomised(kind_of_class(config_class(d_in=16, d_sae=40, **THEIRS[kind])))
    theirs.save_model(tmp_path / "theirs")
    ours, x = read(tmp_path / "theirs", "rescale" in str(THEIRS[kind].get("normalize_activations"))), planted(64)[0]
    torch.testing.assert_close(ours.encode(x).dense(), theirs.encode(x).detach())
    torch.testing.assert_close(ours(x), theirs(x).detach())
    config, state = to_saelens(ours, rescaled=True)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "sae_weights.safetensors")
    torch.testing.assert_close(peer.SAE.load_from_disk(tmp_path)(x).detach(), ours(x))


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka_batchtopk"])
def test_checkpoints_of_training_are_what_saelens_would_save_for_use(kind, tmp_path):
    import sae_lens as peer
    from sae_lens.registry import get_sae_training_class

    kind_of_class, config_class = get_sae_training_class(kind)
    more = {"matryoshka_widths": [10, 40]} if "matryoshka" in kind else {}
    theirs = randomised(kind_of_class(config_class(d_in=16, d_sae=40, k=4, **more)))
    theirs.topk_threshold.fill_(0.2)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "use")
    x = planted(64)[0]
    wanted = peer.SAE.load_from_disk(tmp_path / "use")
    for folder in ("training", "use"):
        ours = read(tmp_path / folder, normalised=False)
        torch.testing.assert_close(ours(x), wanted(x).detach())


@torch.no_grad()
def randomised(theirs):
    """Random weights in place of their zeros."""
    draw = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    return theirs


def read(folder, normalised):
    """A folder as our autoencoder."""
    config = json.loads((folder / "cfg.json").read_text())
    about = FeatureInfo(width=16, backbone="theirs", normalised=normalised)
    return from_saelens(config, load_file(folder / "sae_weights.safetensors"), about)


@pytest.mark.parametrize("rule", [ReLU(l1=0.3), Gated(l1=0.3)], ids=lambda rule: rule.kind)
def test_penalised_losses_are_those_of_saelens(rule):
    from sae_lens.registry import get_sae_training_class

    one, x, variance = stack(rule)
    one, x = one.double(), x.double()
    kind_of_class, config_class = get_sae_training_class("standard" if rule.kind == "relu" else "gated")
    theirs = kind_of_class(config_class(d_in=16, d_sae=64, dtype="float64"))
    names = {"W_enc": "encoder", "W_dec": "decoder", "b_dec": "bias"}
    with torch.no_grad():
        for name, ours in names.items():
            tensor = one.get_parameter(ours)[0]
            theirs.get_parameter(name).copy_(tensor.T if name == "W_enc" else tensor)
    from sae_lens.saes.sae import TrainStepInput

    weight = 0.3 * variance**0.5  # theirs is not divided by the variance, nor the penalty by the deviation
    given = TrainStepInput(
        sae_in=x, coefficients={"l1": weight}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    loss = variance * one.loss(x, variance, dead_after=1000).total.sum()
    torch.testing.assert_close(loss, theirs.training_forward_pass(given).loss)


def test_loss_and_gradients_are_those_of_saelens():
    from sae_lens import saes

    one, x, variance = stack(TopK(k=3))
    one, x = one.double(), x.double()
    config = saes.TopKTrainingSAEConfig(
        d_in=16, d_sae=64, k=3, dtype="float64", aux_loss_coefficient=0.0, rescale_acts_by_decoder_norm=False
    )
    theirs = saes.TopKTrainingSAE(config)
    pairs = {"W_enc": one.encoder, "W_dec": one.decoder, "b_dec": one.bias}
    with torch.no_grad():
        for name, parameter in pairs.items():
            theirs.get_parameter(name).copy_(parameter[0].T if name == "W_enc" else parameter[0])
    given = saes.sae.TrainStepInput(
        sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    wanted = theirs.training_forward_pass(given).loss
    loss = variance * one.loss(x, variance, dead_after=1000).total.sum()  # theirs is not divided by the variance
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    loss.backward()
    for name, parameter in pairs.items():
        ours = parameter.grad[0].T if name == "W_enc" else parameter.grad[0]
        torch.testing.assert_close(ours, theirs.get_parameter(name).grad, rtol=1e-12, atol=1e-12)
