"""The settings of a SAELens folder of any version, as version 6 would write them.

Versions up to 5 kept the origin of an autoencoder, and versions up to 2 that of its training, among the settings; they
named the activation function where version 6 names a kind. Whatever is not known by name is refused by name: it could
change what the autoencoder computes.
"""

from dataclasses import dataclass, field
from typing import Any

RENAMED = {
    "activation_fn_str": "activation_fn",
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
}
_ORIGIN = """
    model_name model_class_name model_from_pretrained_kwargs hook_name hook_layer hook_head_index hook_name_out
    hook_layer_out hook_head_index_out hf_hook_name hf_hook_name_out prepend_bos exclude_special_tokens
    context_size seqpos_slice dataset_path dataset_trust_remote_code is_dataset_tokenized streaming
    neuronpedia_id sae_lens_version sae_lens_training_version from_pretrained_path l1_coefficient lp_norm
    l1_warm_up_steps l1_warmup_steps l0_coefficient l0_warm_up_steps lr lr_end lr_scheduler_name
    lr_warm_up_steps lr_decay_steps adam_beta1 adam_beta2 expansion_factor total_training_tokens training_tokens
    train_batch_size train_batch_size_tokens store_batch_size store_batch_size_prompts n_batches_in_buffer
    tokens_per_buffer use_cached_activations cached_activations_path b_dec_init_method decoder_init_norm
    normalize_sae_decoder noise_scale use_ghost_grads mse_loss_normalization decoder_orthogonal_init
    decoder_heuristic_init decoder_heuristic_init_norm init_encoder_as_decoder_transpose
    scale_sparsity_penalty_by_decoder_norm jumprelu_init_threshold jumprelu_bandwidth
    jumprelu_sparsity_loss_mode jumprelu_tanh_scale pre_act_loss_coefficient aux_loss_coefficient
    topk_threshold_lr use_matryoshka_aux_loss use_sparse_activations feature_sampling_window
    feature_sampling_method feature_reinit_scale resample_batches dead_feature_window
    dead_feature_estimation_method dead_feature_threshold n_checkpoints checkpoint_path run_name seed
    log_to_wandb wandb_project wandb_entity wandb_log_frequency verbose
"""
ORIGIN = frozenset(_ORIGIN.split())
"""What says where an autoencoder is from and how it was trained: kept, and without influence on what it computes."""

OF_KINDS = {
    "k": "topk",
    "rescale_acts_by_decoder_norm": "topk",
    "matryoshka_widths": "matryoshka",
    "d_out": "transcoder",
}
"""Settings that only kinds whose names contain the word read."""


@dataclass
class Settings:
    """What an autoencoder of SAELens computes, and where it is from."""

    architecture: str
    d_in: int
    d_sae: int
    d_out: int | None = None
    k: float | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    rescale_acts_by_decoder_norm: bool = False
    finetuning_scaling_factor: bool = False
    matryoshka_widths: tuple[int, ...] = ()
    dtype: str = "float32"
    device: str = "cpu"
    metadata: dict[str, Any] = field(default_factory=dict)


def present_settings(config: dict[str, Any]) -> Settings:
    """The settings of a `cfg.json`. Raises ValueError that names what is missing, unknown or has no equal here."""
    named = {RENAMED.get(name, name): value for name, value in config.items()}
    metadata = named.pop("metadata", None) or {}
    if not isinstance(metadata, dict):
        raise ValueError(f"SAELens setting metadata must be an object, got {metadata!r}")
    metadata = dict(metadata)
    metadata |= {name: named.pop(name) for name in ORIGIN & set(named)}
    _read_activation_function(named)
    if isinstance(named.get("normalize_activations"), bool | None):
        measured = named.pop("normalize_activations", None)
        named["normalize_activations"] = "expected_average_only_in" if measured else "none"
    if named.get("matryoshka_widths"):
        named["matryoshka_widths"] = tuple(named["matryoshka_widths"])
    fields = Settings.__dataclass_fields__
    if unknown := sorted(set(named) - set(fields)):
        raise ValueError(f"SAELens setting {unknown[0]}={named[unknown[0]]!r} is unknown: it could change the codes")
    if missing := [name for name in ("d_in", "d_sae") if name not in named]:
        raise ValueError(f"the SAELens settings lack {missing[0]}")
    settings = Settings(**named, metadata=metadata)
    for name, word in OF_KINDS.items():
        if named.get(name) and word not in settings.architecture:
            raise ValueError(f"SAELens setting {name}={named[name]!r} has no meaning for {settings.architecture}")
    _require_supported(settings)
    return settings


def _read_activation_function(named: dict[str, Any]) -> None:
    """Replace an activation function and its arguments by the kind that has it."""
    function, arguments = named.pop("activation_fn", "relu"), dict(named.pop("activation_fn_kwargs", None) or {})
    kind = named.setdefault("architecture", "standard")
    if function not in ("relu", "topk"):
        raise ValueError(f"SAELens setting activation_fn={function!r} is not supported: relu or topk")
    if "topk" in (function, kind) and kind in ("standard", "topk"):
        named |= {"architecture": "topk", "k": arguments.pop("k", named.get("k"))}
    elif function == "topk":
        raise ValueError(f"SAELens setting activation_fn='topk' contradicts architecture={kind!r}")
    if arguments:
        raise ValueError(f"SAELens setting activation_fn_kwargs={arguments} is unknown: it could change the codes")


def _require_supported(settings: Settings) -> None:
    remedies = {
        "expected_average_only_in": "its scale is not in the folder: let SAELens fold it into the weights first",
        "covariance_whitening": "its matrix is not in the folder: let SAELens fold it into the weights first",
        "layer_norm": "give an autoencoder of features as they are, or of constant norm (constant_norm_rescale)",
    }
    normalised = settings.normalize_activations
    if normalised not in ("none", "constant_norm_rescale"):
        remedy = remedies.get(normalised, "'none' and 'constant_norm_rescale' are")
        raise ValueError(f"SAELens setting normalize_activations={normalised!r} is not supported: {remedy}")
    if settings.reshape_activations != "none":
        raise ValueError(
            f"SAELens setting reshape_activations={settings.reshape_activations!r} is not supported: "
            "flatten the heads of activations into one axis and set it to 'none'"
        )
