"""Autoencoders in the layout of SAELens: the contents of its `cfg.json` and `sae_weights.safetensors`.

    standard    values = relu of (x - b_dec) W_enc + b_enc
    topk        values = relu of the k largest of these
    jumprelu    values = those above max(threshold, 0)
    gated       values = relu of (x - b_dec) W_enc exp(r_mag) + b_mag, where (x - b_dec) W_enc + b_gate > 0

SAELens writes BatchTopK and Matryoshka as jumprelu once they are trained; its checkpoints of training have kinds of
their own (`batchtopk`, `matryoshka_batchtopk`) with one threshold. Transcoders read x without b_dec and have a W_dec of
another width, and W_skip. Every setting and tensor is read, or refused by name.
"""

from typing import Any

import torch
from torch import Tensor

from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo
from amalgam.tasks.sae.rules import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, Sparsity, TopK
from amalgam.tasks.sae.saelens_settings import Settings, present_settings
from amalgam.tasks.sae.transcoder import Transcoder, TranscoderInfo

OURS = "amalgam"  # our own key in SAELens's free-form metadata
LAYOUT = "6.0.0"  # without a version SAELens takes the layout for an older one and drops the metadata
UNTRAINED = 1.0  # in place of numbers that only training reads and a folder does not say
NAMES = {
    "encoder": "W_enc", "decoder": "W_dec", "encoder_bias": "b_enc", "bias": "b_dec", "threshold": "threshold",
    "log_scale": "r_mag", "magnitude_bias": "b_mag", "skip": "W_skip",
}  # fmt: skip


def to_saelens(sae: SparseAutoencoder, rescaled: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and state dict that SAELens reads.

    An autoencoder of unit vectors is written for unit vectors, to the bit; `rescaled` lets SAELens read features of any
    norm as it would (`constant_norm_rescale`), which scales the weights and so rounds them.
    Raises ValueError for what SAELens cannot express: TopK(signed=True), transcoders other than ReLU and thresholds.
    """
    info = sae.info
    rescaled = rescaled and info.normalised
    config: dict[str, Any] = {
        "architecture": _architecture(sae),
        "d_in": info.width,
        "d_sae": info.num_latents,
        "dtype": str(sae.encoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": not isinstance(sae, Transcoder),
        "normalize_activations": "constant_norm_rescale" if rescaled else "none",
        "reshape_activations": "none",
        "metadata": {"model_name": info.backbone, "sae_lens_training_version": None, **info.origin}
        | {"sae_lens_version": LAYOUT, OURS: info.model_dump(mode="json", exclude={"origin"})},
    }
    if isinstance(info.sparsity, TopK | Matryoshka):
        config |= {"k": info.sparsity.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(sae, Transcoder):
        config["d_out"] = sae.info.num_outputs
    names = _names(info)
    state = {theirs: sae.get_parameter(ours).detach() for ours, theirs in names.items()}
    state["W_enc"] = state["W_enc"].T
    if rescaled:
        state = _rescaled(state, info.width**0.5)
    return config, {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}


def from_saelens(config: dict[str, Any], state: dict[str, Tensor], features: FeatureInfo) -> SparseAutoencoder:
    """The autoencoder, or transcoder, of a SAELens folder, for features that the caller describes.

    Raises ValueError for features other than those it was exported for, and for settings and tensors without an equal.
    """
    settings = present_settings(config)
    info = _info(settings, features)
    info.require(features)
    names, state = _names(info), _in_dtype(state, settings.dtype)
    if "batchtopk" in settings.architecture and "topk_threshold" in state:
        state["threshold"] = state.pop("topk_threshold").expand(info.num_latents).clone()
    if missing := sorted(set(names.values()) - set(state)):
        raise ValueError(f"the SAELens weights lack {', '.join(missing)}")
    _fold(settings, state, info)
    if unknown := sorted(set(state) - set(names.values())):
        raise ValueError(f"the SAELens weights have {', '.join(unknown)}, which {settings.architecture} does not read")
    sae = (Transcoder(info) if isinstance(info, TranscoderInfo) else SparseAutoencoder(info)).to(state["W_enc"].dtype)
    ours = {name: state[theirs] for name, theirs in names.items()} | {"encoder": state["W_enc"].T}
    for name, tensor in ours.items():
        wanted = sae.get_parameter(name).shape
        if tensor.shape != wanted:
            raise ValueError(f"SAELens weight {names[name]} does not fit {tuple(wanted)}: got {tuple(tensor.shape)}")
    sae.load_state_dict(ours)
    if not settings.apply_b_dec_to_input and not isinstance(sae, Transcoder):
        _centre(sae)
    return sae.eval()


def _architecture(sae: SparseAutoencoder) -> str:
    rule = sae.info.sparsity
    if isinstance(rule, TopK) and rule.signed:
        raise ValueError("SAELens keeps positive activations only: train with TopK(signed=False) to export")
    kinds = {ReLU: "standard", Gated: "gated", BatchTopK: "jumprelu", JumpReLU: "jumprelu"}
    kind = kinds.get(type(rule), "topk")
    if not isinstance(sae, Transcoder):
        return kind
    if kind not in ("standard", "jumprelu"):
        raise ValueError(f"SAELens has no transcoder with {rule!r}: ReLU, JumpReLU or BatchTopK")
    return "_".join(["jumprelu"] * (kind == "jumprelu") + ["skip"] * sae.info.skip + ["transcoder"])


def _names(info: SAEInfo) -> dict[str, str]:
    """Names of tensors there, by ours."""
    wanted = ["encoder", "decoder", "encoder_bias", "bias"]
    wanted += ["threshold"] * isinstance(info.sparsity, BatchTopK | JumpReLU)
    wanted += ["log_scale", "magnitude_bias"] * isinstance(info.sparsity, Gated)
    wanted += ["skip"] * (isinstance(info, TranscoderInfo) and info.skip)
    names = {name: NAMES[name] for name in wanted}
    return names | {"encoder_bias": "b_gate"} if isinstance(info.sparsity, Gated) else names


def _info(settings: Settings, features: FeatureInfo) -> SAEInfo:
    exported = settings.metadata.pop(OURS, None)
    settings.metadata.pop("sae_lens_version", None)
    origin = {name: value for name, value in settings.metadata.items() if value is not None}
    if isinstance(exported, dict):
        kind = TranscoderInfo if "num_outputs" in exported else SAEInfo
        if origin.get("model_name") == exported.get("backbone"):
            del origin["model_name"]
        return kind.model_validate(exported | {"origin": origin})
    rescaled = settings.normalize_activations == "constant_norm_rescale"
    about = features.model_dump() | {"width": settings.d_in} | ({"normalised": True} if rescaled else {})
    about |= {"num_latents": settings.d_sae, "sparsity": _rule(settings), "origin": origin}
    if not settings.architecture.endswith("transcoder"):
        return SAEInfo(**about)
    if settings.d_out is None or rescaled:
        raise ValueError("a SAELens transcoder needs d_out and normalize_activations='none'")
    return TranscoderInfo(**about, num_outputs=settings.d_out, skip="skip" in settings.architecture)


def _rule(settings: Settings) -> Sparsity:
    """The rule of a folder of SAELens's own."""
    kind, k = settings.architecture, settings.k
    if "topk" in kind and k is None:
        raise ValueError(f"the SAELens settings of {kind} lack 'k'")
    if kind == "topk":
        return TopK.model_validate({"k": k})
    if kind in ("batchtopk", "matryoshka_batchtopk") and k is not None:
        widths = [*settings.matryoshka_widths, settings.d_sae]
        shares = tuple(dict.fromkeys(width / settings.d_sae for width in widths))
        return BatchTopK(k=int(k), prefixes=shares) if k == int(k) else JumpReLU(target_l0=k)
    if kind in ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        return JumpReLU(target_l0=UNTRAINED)
    if kind in ("standard", "transcoder", "skip_transcoder"):
        return ReLU(l1=UNTRAINED)
    if kind == "gated":
        return Gated(l1=UNTRAINED)
    known = "standard, gated, topk, batchtopk, matryoshka_batchtopk, jumprelu and transcoders"
    raise ValueError(f"SAELens architecture {kind!r} is not supported: {known}")


def _in_dtype(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights in the dtype of the settings, in which SAELens computes."""
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"SAELens setting dtype={name!r} is no floating point type of torch")
    return {key: tensor.to(dtype) for key, tensor in state.items()}


def _fold(settings: Settings, state: dict[str, Tensor], info: SAEInfo) -> None:
    """Put into the weights what SAELens applies beside them."""
    if (scale := state.pop("scaling_factor", None)) is not None and not (scale == 1).all():
        if not settings.finetuning_scaling_factor:
            raise ValueError("the SAELens weights have a scaling_factor, but finetuning_scaling_factor is false")
        state["W_dec"] = state["W_dec"] * scale[:, None]
    if settings.rescale_acts_by_decoder_norm:
        norms = state["W_dec"].norm(dim=1)
        state["W_enc"], state["W_dec"] = state["W_enc"] * norms, state["W_dec"] / norms[:, None]
        state["b_enc"] = state["b_enc"] * norms
    if settings.normalize_activations == "constant_norm_rescale":
        state.update(_rescaled(state, info.width**-0.5))


def _rescaled(state: dict[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Weights that read vectors `norm` times as long."""
    scaled = {"W_enc": state["W_enc"] / norm, "W_dec": state["W_dec"] * norm, "b_dec": state["b_dec"] * norm}
    return state | scaled


@torch.no_grad()
def _centre(sae: SparseAutoencoder) -> None:
    """Offsets of the encoder for features without their bias: W (x - b) + (c + W b) is W x + c."""
    shift = sae.encoder @ sae.bias
    sae.encoder_bias.add_(shift)
    if isinstance(sae.info.sparsity, Gated):
        sae.magnitude_bias.add_(sae.log_scale.exp() * shift)
