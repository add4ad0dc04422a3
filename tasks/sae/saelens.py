"""Autoencoders in the layout of SAELens 6: the contents of its `cfg.json` and `sae_weights.safetensors`.

    topk       values = relu of the k largest of (x - b_dec) W_enc + b_enc
    jumprelu   values = pre-activations above max(threshold, 0)

SAELens writes BatchTopK as jumprelu too. It knows no unit-norm inputs: which features an exported autoencoder reads
is in the metadata, where it is read back from.
"""

from typing import Any

import torch
from torch import Tensor

from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.codes import has_threshold
from amalgam.tasks.sae.config import FeatureInfo, JumpReLU, SAEInfo, Sparsity, TopK

OURS = "amalgam"  # our own key in SAELens's free-form metadata
LAYOUT = "6.0.0"  # without a version SAELens takes the layout for an older one and drops the metadata


def to_saelens(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and state dict that SAELens reads.

    Raises ValueError for TopK(signed=True), which SAELens cannot express.
    """
    rule, info = sae.info.sparsity, sae.info
    if isinstance(rule, TopK) and rule.signed:
        raise ValueError("SAELens keeps positive activations only: train with TopK(signed=False) to export")
    config: dict[str, Any] = {
        "d_in": info.width,
        "d_sae": info.num_latents,
        "dtype": str(sae.encoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": LAYOUT, "model_name": info.backbone, OURS: info.model_dump(mode="json")},
    }
    state = {"W_enc": sae.encoder.T, "W_dec": sae.decoder, "b_enc": sae.encoder_bias, "b_dec": sae.bias}
    if has_threshold(rule):
        config |= {"architecture": "jumprelu"}
        state |= {"threshold": sae.threshold}
    else:
        assert not isinstance(rule, JumpReLU), "JumpReLU has a threshold"
        config |= {"architecture": "topk", "k": rule.k, "rescale_acts_by_decoder_norm": False}
    return config, {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def from_saelens(config: dict[str, Any], state: dict[str, Tensor], features: FeatureInfo) -> SparseAutoencoder:
    """The autoencoder of a SAELens folder, for features that the caller describes.

    Raises ValueError for features other than those it was exported for, and for settings that have no equal here.
    """
    info = _info(config, features)
    info.require(features)
    names = {"encoder": "W_enc", "decoder": "W_dec", "encoder_bias": "b_enc", "bias": "b_dec"}
    if has_threshold(info.sparsity):
        names["threshold"] = "threshold"
    missing = sorted(set(names.values()) - set(state))
    if missing:
        raise ValueError(f"the SAELens weights lack {', '.join(missing)}")
    sae = SparseAutoencoder(info).to(state["W_enc"].dtype)
    ours = {name: state[theirs] for name, theirs in names.items()} | {"encoder": state["W_enc"].T}
    for name, tensor in ours.items():
        wanted = sae.get_parameter(name).shape
        if tensor.shape != wanted:
            raise ValueError(f"SAELens weight {names[name]} does not fit {tuple(wanted)}: got {tuple(tensor.shape)}")
    sae.load_state_dict(ours)
    if not config.get("apply_b_dec_to_input", True):
        with torch.no_grad():  # W (x - b) + (c + W b) is W x + c
            sae.encoder_bias.add_(sae.encoder @ sae.bias)
    return sae.eval()


def _info(config: dict[str, Any], features: FeatureInfo) -> SAEInfo:
    for setting in ("normalize_activations", "reshape_activations"):
        if config.get(setting, "none") != "none":
            raise ValueError(f"SAELens setting {setting}={config[setting]!r} is not supported, only 'none'")
    if config.get("rescale_acts_by_decoder_norm"):
        raise ValueError("SAELens setting rescale_acts_by_decoder_norm is not supported: fold_W_dec_norm it first")
    exported = (config.get("metadata") or {}).get(OURS)
    if exported is not None:
        return SAEInfo.model_validate(exported)
    rules: dict[str, Sparsity] = {"jumprelu": JumpReLU(target_l0=1)}
    if config.get("architecture") == "topk":
        rules["topk"] = TopK(k=config["k"])
    if config.get("architecture") not in rules:
        raise ValueError(f"SAELens architecture {config.get('architecture')!r} is not supported: topk or jumprelu")
    about = features.model_dump() | {"width": config["d_in"]}
    return SAEInfo(**about, num_latents=config["d_sae"], sparsity=rules[config["architecture"]])
