"""The same numbers as SAELens itself, where it is installed: `make test-peers` installs it and runs these tests."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from amalgam.tasks.sae.config import TopK
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
