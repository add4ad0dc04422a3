"""SAELens's layout, and what SAELens 6.54 computes from it: its equations are written out here, not imported."""

import json

import pytest
import torch

from amalgam.tasks.sae.config import FeatureInfo
from amalgam.tasks.sae.rules import BatchTopK, TopK
from amalgam.tasks.sae.saelens import OURS, from_saelens, to_saelens
from tests.tasks.sae.planted import ABOUT, WIDTH, planted
from tests.tasks.sae.test_codes import autoencoder, each_rule

LATENTS, OUTPUTS = 40, 10
RAW = FeatureInfo(width=WIDTH, backbone="theirs", normalised=False)
UNIT = FeatureInfo(width=WIDTH, backbone="theirs")
MODERN = {"d_in": WIDTH, "d_sae": LATENTS, "apply_b_dec_to_input": True, "metadata": {"hook_name": "layer 3"}}
FOREIGN = {
    "standard": {},
    "gated": {},
    "gated, input as it is": {"apply_b_dec_to_input": False},
    "jumprelu, input as it is": {"apply_b_dec_to_input": False},
    "topk": {"k": 4},
    "topk, rescaled by norms": {"k": 4, "rescale_acts_by_decoder_norm": True},
    "batchtopk": {"k": 4.0, "topk_threshold_lr": 0.01},
    "batchtopk, fractional": {"k": 3.5},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [10, 40]},
    "transcoder": {"d_out": OUTPUTS, "apply_b_dec_to_input": False},
    "skip_transcoder": {"d_out": OUTPUTS, "apply_b_dec_to_input": False},
    "jumprelu_transcoder": {"d_out": OUTPUTS, "apply_b_dec_to_input": False},
    "jumprelu_skip_transcoder": {"d_out": OUTPUTS, "apply_b_dec_to_input": False},
}
each_foreign = pytest.mark.parametrize("kind", FOREIGN)


def saelens(config, state, x):
    """The codes and the reconstruction of x by SAELens's rules."""
    kind, size = config["architecture"], x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
    rescaled = config.get("normalize_activations") == "constant_norm_rescale"
    z = (x / size if rescaled else x) - (state["b_dec"] if config["apply_b_dec_to_input"] else 0)
    norms = state["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else 1
    if kind == "gated":
        codes = (z @ (state["W_enc"] * state["r_mag"].exp()) + state["b_mag"]).relu()
        codes = codes * (z @ state["W_enc"] + state["b_gate"] > 0)
    else:
        pre = (z @ state["W_enc"] + state["b_enc"]) * norms
        codes = pre.relu() * (pre > state.get("threshold", state.get("topk_threshold", torch.zeros(()))).relu())
    if kind == "topk":
        codes = torch.zeros_like(pre).scatter(
            1, pre.topk(config["k"]).indices, codes.gather(1, pre.topk(config["k"]).indices)
        )
    output = (codes / norms) @ state["W_dec"] + state["b_dec"]
    output = output * size if rescaled else output
    return codes, output + x @ state["W_skip"].T if "skip" in kind else output


def foreign(kind):
    """Settings and random weights of a folder that SAELens wrote."""
    config = {**MODERN, "architecture": kind.partition(",")[0], **FOREIGN[kind]}
    config["metadata"] = dict(MODERN["metadata"])
    draw, outputs = torch.Generator().manual_seed(0), config.get("d_out", WIDTH)
    shapes = {"W_enc": (WIDTH, LATENTS), "W_dec": (LATENTS, outputs), "b_enc": (LATENTS,), "b_dec": (outputs,)}
    if "gated" in kind:
        del shapes["b_enc"]
        shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (LATENTS,))
    shapes |= {"threshold": (LATENTS,)} if "jumprelu" in kind else {}
    shapes |= {"topk_threshold": ()} if "batchtopk" in kind else {}
    shapes |= {"W_skip": (outputs, WIDTH)} if "skip" in kind else {}
    return config, {name: torch.randn(shape, generator=draw) / 2 for name, shape in shapes.items()}


@each_rule
def test_an_exported_autoencoder_means_the_same_there_and_comes_back(rule):
    sae, x = autoencoder(rule), planted(32)[0]
    sae.encoder_bias += 0.01
    config, state = to_saelens(sae)
    codes, reconstruction = saelens(config, state, x)
    torch.testing.assert_close(codes, sae.encode(x).dense())
    torch.testing.assert_close(reconstruction, sae(x))
    back = from_saelens(json.loads(json.dumps(config)), state, ABOUT)
    assert back.info == sae.info
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), sae.parameters(), strict=True))


@each_rule
def test_rescaled_export_reads_features_of_any_norm(rule):
    sae, x = autoencoder(rule), planted(32)[0]
    config, state = to_saelens(sae, rescaled=True)
    codes, reconstruction = saelens(config, state, 7 * x)
    torch.testing.assert_close(codes, sae.encode(x).dense())
    torch.testing.assert_close(reconstruction, 7 * sae(x))
    torch.testing.assert_close(from_saelens(config, state, ABOUT)(x), sae(x))


@each_foreign
def test_a_foreign_folder_computes_what_saelens_computes_and_is_written_as_it_was_read(kind):
    config, state = foreign(kind)
    x = 3 * planted(32)[0]
    sae, (codes, output) = from_saelens(config, state, RAW), saelens(config, state, x)
    assert 0 < codes.count_nonzero() < codes.numel()
    torch.testing.assert_close(sae.encode(x).dense(), codes)
    torch.testing.assert_close(sae(x), output)
    again, weights = to_saelens(sae)
    torch.testing.assert_close(saelens(again, weights, x)[1], output)
    assert again["metadata"]["hook_name"] == "layer 3"
    assert "transcoder" not in kind or again["architecture"] == kind


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu, input as it is", "topk"])
def test_folders_of_constant_norm_read_unit_vectors(kind):
    config, state = foreign(kind)
    config |= {"normalize_activations": "constant_norm_rescale"}
    x = planted(32)[0]
    sae, (codes, output) = from_saelens(config, state, UNIT), saelens(config, state, x)
    torch.testing.assert_close(sae.encode(x).dense(), codes)
    torch.testing.assert_close(sae(x), output)
    with pytest.raises(ValueError, match="normalised=True"):
        from_saelens(config, state, RAW)


OLDER = {
    "no kind at all": ({}, {}, {}),
    "topk among arguments": (
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
        {"architecture": "topk", "k": 4},
        {},
    ),
    "topk in both": (
        {"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": 4}},
        {"architecture": "topk", "k": 4},
        {},
    ),
    "settings of training": (
        {"hook_point": "layer 3", "lr": 4e-4, "l1_coefficient": 8e-5, "normalize_activations": False},
        {},
        {},
    ),
    "a scale of ones": ({}, {}, {"scaling_factor": torch.ones(LATENTS)}),
    "a scale of atoms": ({"finetuning_scaling_factor": True}, {}, {"scaling_factor": torch.linspace(0.5, 2, LATENTS)}),
}


@pytest.mark.parametrize("case", OLDER)
def test_older_folders_are_read_as_they_were_meant(case):
    older, meant, more = OLDER[case]
    _, state = foreign("standard")
    config = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "torch.float32", "device": "mps", **older}
    wanted = {**MODERN, "architecture": "standard", **meant}
    scaled = state | {"W_dec": state["W_dec"] * more["scaling_factor"][:, None]} if more else state
    x = planted(32)[0]
    sae, (codes, output) = from_saelens(config, state | more, RAW), saelens(wanted, scaled, x)
    torch.testing.assert_close(sae.encode(x).dense(), codes)
    torch.testing.assert_close(sae(x), output)
    assert sae.info.origin.get("hook_name") == older.get("hook_point")


def test_the_widths_of_a_matryoshka_are_kept():
    config, state = foreign("matryoshka_batchtopk")
    assert from_saelens(config, state, RAW).info.sparsity == BatchTopK(k=4, prefixes=(0.25, 1.0))


REFUSED = {
    "layer_norm": {"normalize_activations": "layer_norm"},
    "expected_average_only_in": {"normalize_activations": True},
    "covariance_whitening": {"normalize_activations": "covariance_whitening"},
    "hook_z": {"reshape_activations": "hook_z"},
    "jumpy": {"architecture": "jumpy"},
    "tanh-relu": {"activation_fn_str": "tanh-relu"},
    "alpha": {"activation_fn_str": "relu", "activation_fn_kwargs": {"alpha": 2}},
    "'k'": {"activation_fn_str": "topk", "activation_fn_kwargs": {}},
    "surprise": {"surprise": 3},
    "contradicts": {"architecture": "jumprelu", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
    "metadata": {"metadata": "text"},
    "k=4": {"k": 4},
    "rescale_acts_by_decoder_norm": {"rescale_acts_by_decoder_norm": True},
    "d_out": {"d_out": 3},
    "dtype": {"dtype": "float31"},
    "width": {"d_in": WIDTH + 1},
    "d_sae": {"d_sae": None},
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_without_an_equal_are_refused_by_name(name):
    config, state = foreign("standard")
    changed = {key: value for key, value in (config | REFUSED[name]).items() if value is not None}
    with pytest.raises(ValueError, match=name):
        from_saelens(changed, state, RAW)


def test_tensors_that_nobody_reads_and_missing_ones_are_refused_by_name():
    config, state = foreign("standard")
    for more in (
        {"W_skip": torch.zeros(WIDTH, WIDTH)},
        {"log_threshold": torch.zeros(LATENTS)},
        {"topk_threshold": torch.ones(())},
    ):
        with pytest.raises(ValueError, match=next(iter(more))):
            from_saelens(config, state | more, RAW)
    with pytest.raises(ValueError, match="finetuning_scaling_factor"):
        from_saelens(config, state | {"scaling_factor": torch.full((LATENTS,), 2.0)}, RAW)
    with pytest.raises(ValueError, match="b_enc"):
        from_saelens(config, {name: tensor for name, tensor in state.items() if name != "b_enc"}, RAW)
    rescaled, weights = foreign("topk, rescaled by norms")
    with pytest.raises(ValueError, match="b_enc"):
        from_saelens(rescaled, {name: tensor for name, tensor in weights.items() if name != "b_enc"}, RAW)
    assert from_saelens({**config, "dtype": "float64"}, state, RAW).encoder.dtype == torch.float64
    with pytest.raises(ValueError, match=r"b_\w+ .*got"):
        from_saelens(config, state | {"b_enc": torch.zeros(3)}, RAW)


def test_what_saelens_cannot_express_is_refused():
    with pytest.raises(ValueError, match="signed"):
        to_saelens(autoencoder(TopK(k=2, signed=True)))
    config, state = to_saelens(autoencoder(TopK(k=2)))
    with pytest.raises(ValueError, match="backbone"):
        from_saelens(config, state, FeatureInfo(width=WIDTH, backbone="other"))
    assert config["metadata"][OURS]["normalised"]
