"""CLIP weights on this machine: those that open_clip fetched under a tag, and checkpoints of training scripts."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.pretrained import HF_WEIGHTS_NAME, _get_safe_alternatives
from torch import Tensor, nn

from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.models.foreign import fitted, read_checkpoint, renamed
from amalgam.tasks.user_names import unknown_name

LOG = logging.getLogger(__name__)
POSITIONS = "positional_embedding"


def tag_settings(spec: ClipSpec) -> dict[str, Any]:
    """What open_clip knows about the weights of `spec`; empty without a tag."""
    if not spec.pretrained:
        return {}
    known: dict[str, Any] = open_clip.pretrained.get_pretrained_cfg(spec.name, spec.pretrained)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(spec.name)
        if not tags:
            raise ValueError(f"open_clip has no weights for {spec.name}: give checkpoint, a file, or neither")
        raise unknown_name(f"pretrained tag of {spec.name}", spec.pretrained, tags)
    return known


def fetched_weights(spec: ClipSpec, root: Path | None) -> Path:
    """The file that open_clip's own download left behind."""
    tag = tag_settings(spec)
    repository, _, filename = tag.get("hf_hub", "").rpartition("/")
    if repository:
        filename = filename or HF_WEIGHTS_NAME
        for name in (*_get_safe_alternatives(filename), filename):
            found = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir=root)
            if isinstance(found, str):
                return Path(found)
    if tag.get("url"):
        file = (root or Path.home() / ".cache" / "clip") / Path(tag["url"]).name
        if file.is_file():
            return file
    command = f"open_clip.create_model({spec.name!r}, {spec.pretrained!r}{_cache(root)})"
    raise _absent(f"the weights {spec.pretrained!r} of {spec.name} are", command)


def snapshot_folder(repository: str, file: str, spec: ClipSpec, root: Path | None) -> str:
    """The folder of a fetched repository that contains `file`."""
    found = huggingface_hub.try_to_load_from_cache(repository, file, cache_dir=root)
    if not isinstance(found, str):
        weights = f", {spec.pretrained!r}" if spec.pretrained else ""
        fetch = f"open_clip.create_model({spec.name!r}{weights}{_cache(root)})"
        command = f"{fetch}; open_clip.get_tokenizer({spec.name!r}{_cache(root)})"
        raise _absent(f"the text tower {repository} of {spec.name} is", command)
    return str(Path(found).parent)


def _cache(root: Path | None) -> str:
    return f", cache_dir={str(root)!r}" if root else ""


def _absent(what: str, command: str) -> ValueError:
    fetch = shlex.join(["python", "-c", f"import open_clip; {command}"])
    return ValueError(f"{what} not on this machine; where there is a network, fetch with: {fetch}")


def load_weights(model: nn.Module, file: Path, spec: ClipSpec) -> None:
    """Load a file of weights into open_clip's network, and log as warnings what was changed for it to fit.

    Prefixes and wrappers of training scripts are taken off, position embeddings resized, and the bias of a sigmoid loss
    left out where the network has none: it is the same for all classes. Raises ValueError if the file is absent,
    damaged, not finite, or of another network.
    """
    if not file.is_file():
        raise ValueError(f"there is no checkpoint {file}")
    try:
        if file.suffix in (".npz", ".npy"):  # SigLIP as big_vision publishes it
            return load_big_vision_weights(model, str(file))
        checkpoint = read_checkpoint(file)
        if {f"visual.{name.removeprefix('visual.')}" for name in checkpoint.state} <= model.state_dict().keys():
            raise ValueError(f"{file} holds an image tower alone: give a checkpoint that has the text tower too")
        state, notes = _converted(model, checkpoint.state)
        found = fitted(model, replace(checkpoint, state=state, notes=(*checkpoint.notes, *notes)))
    except (RuntimeError, OSError, EOFError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} does not contain the weights of {spec.name}: {reason}") from error
    for note in found.notes:
        LOG.warning("%s: %s", file, note)
    model.load_state_dict(found.state)


def _converted(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under open_clip's present names and in the shapes of `model`, and what was done to them."""
    own = model.state_dict()
    named, notes = renamed(convert_state_dict(model, dict(state)), own)
    if POSITIONS in named and POSITIONS not in own:
        named = convert_to_custom_text_state_dict(named)
    if "logit_bias" in own and "logit_bias" not in named:  # weights of a softmax loss, which has no bias
        named["logit_bias"] = own["logit_bias"].new_zeros(())
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in named and scalar in own and named[scalar].numel() == 1:
            named[scalar] = named[scalar].reshape(own[scalar].shape)
    before = {name: tuple(tensor.shape) for name, tensor in named.items()}
    resize_pos_embed(named, model)
    resize_text_pos_embed(named, model)
    after = {name: tuple(tensor.shape) for name, tensor in named.items()}
    notes += [f"{name!r} resized from {before[name]} to {after[name]}" for name in named if before[name] != after[name]]
    return named, notes
