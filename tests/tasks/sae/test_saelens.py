"""SAELens's layout, and what SAELens 6.54 computes from it: its equations are written out here, not imported."""

import pytest
import torch

from amalgam.tasks.sae.config import FeatureInfo, TopK
from amalgam.tasks.sae.saelens import OURS, from_saelens, to_saelens
from tests.tasks.sae.planted import ABOUT, RULES, WIDTH, planted
from tests.tasks.sae.test_codes import autoencoder, each_rule


def saelens(config, state, x):
    """The codes and the reconstruction of x by SAELens's rules."""
    pre = (x - state["b_dec"] * config["apply_b_dec_to_input"]) @ state["W_enc"] + state["b_enc"]
    if config["architecture"] == "topk":
        values, indices = pre.topk(config["k"])
        codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
    else:
        codes = pre.relu() * (pre > state["threshold"].relu())
    return codes, codes @ state["W_dec"] + state["b_dec"]


@each_rule
def test_an_exported_autoencoder_means_the_same_there_and_comes_back(rule):
    sae, x = autoencoder(rule), planted(32)[0]
    sae.encoder_bias += 0.01
    config, state = to_saelens(sae)
    codes, reconstruction = saelens(config, state, x)
    torch.testing.assert_close(codes, sae.encode(x).dense())
    torch.testing.assert_close(reconstruction, sae(x))
    back = from_saelens(config, state, ABOUT)
    assert back.info == sae.info
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), sae.parameters(), strict=True))


@pytest.mark.parametrize("rule", [RULES[0], RULES[2]], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("centred", [True, False])
def test_a_foreign_autoencoder_computes_what_saelens_computes(rule, centred):
    config, state = to_saelens(autoencoder(rule))
    config |= {"metadata": {}, "apply_b_dec_to_input": centred}
    x = planted(32)[0]
    sae, (codes, reconstruction) = from_saelens(config, state, ABOUT), saelens(config, state, x)
    torch.testing.assert_close(sae.encode(x).dense(), codes)
    torch.testing.assert_close(sae(x), reconstruction)


def test_what_has_no_equal_on_the_other_side_is_refused():
    with pytest.raises(ValueError, match="signed"):
        to_saelens(autoencoder(TopK(k=2, signed=True)))
    config, state = to_saelens(autoencoder(TopK(k=2)))
    foreign = config | {"metadata": None}
    wrong = {
        "normalize_activations": {"normalize_activations": "layer_norm"},
        "rescale_acts_by_decoder_norm": {"rescale_acts_by_decoder_norm": True},
        "gated": {"architecture": "gated"},
        "width": {"d_in": WIDTH + 1},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            from_saelens(foreign | change, state, ABOUT)
    with pytest.raises(ValueError, match="b_enc"):
        from_saelens(foreign, {name: tensor for name, tensor in state.items() if name != "b_enc"}, ABOUT)
    with pytest.raises(ValueError, match=r"b_\w+ .*got|W_\w+ .*got"):
        from_saelens(foreign, state | {"b_enc": torch.zeros(3)}, ABOUT)
    with pytest.raises(ValueError, match="backbone"):
        from_saelens(config, state, FeatureInfo(width=WIDTH, backbone="other"))
    assert config["metadata"][OURS]["normalised"]
