"""What the CLIP steps keep on disk: backbones, classifiers and sparse autoencoders, as JSON and safetensors.

A backbone is both towers: `clip.json` and, unless its weights are those of a tag of open_clip, `clip.safetensors`. A
classifier is an image tower and a head: `classifier.json`, `model.safetensors`. Autoencoders lie in the layout of
SAELens, a folder for each: `cfg.json`, `sae_weights.safetensors`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import nn

from amalgam.pipeline.store.checkpoints import fill, read_json, read_state, write_state
from amalgam.tasks.clip.zero_shot import Classifier, Head
from amalgam.tasks.models.clip import Clip, build_clip
from amalgam.tasks.models.clip_spec import CLIP_WEIGHTS, ClipSpec
from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.config import FeatureInfo
from amalgam.tasks.sae.saelens import OURS, from_saelens, to_saelens
from amalgam.tasks.sae.transcoder import Transcoder

WEIGHTS = "open_clip"  # folder of fetched weights under the data root
CLASSIFIER = "classifier.json"
SAE_CONFIG, SAE_WEIGHTS = "cfg.json", "sae_weights.safetensors"


class ClassifierInfo(BaseModel):
    """What a classifier is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: ClipSpec
    """The encoders that its image tower started from."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    """Sentences whose mean made the head, each with a slot {} for the class name."""
    backbone: str
    """Key of the frozen encoder and its preprocessing: features with another key are not its anchors."""


def save_clip(clip: Clip, spec: ClipSpec, folder: Path) -> None:
    """Write a backbone into an existing folder; weights that open_clip has under a tag are not copied."""
    if spec.pretrained is None:
        write_state(clip.model, folder / CLIP_WEIGHTS)
    (folder / "clip.json").write_text(spec.model_copy(update={"checkpoint": None}).model_dump_json(indent=2) + "\n")


def load_clip(folder: Path, root: Path | None = None) -> Clip:
    """The encoders of a backbone folder, in eval mode; `root` is as in `build_clip`."""
    spec = read_clip_spec(folder)
    if spec.pretrained is None:
        spec = spec.model_copy(update={"checkpoint": str(folder / CLIP_WEIGHTS)})
    return build_clip(spec, root)


def read_clip_spec(folder: Path) -> ClipSpec:
    """What the encoders of a backbone folder are; of weights under no tag it does not say where they lie."""
    return read_json(ClipSpec, folder / "clip.json", "CLIP backbone")


def save_classifier(classifier: nn.Module, about: ClassifierInfo, folder: Path) -> None:
    """Write a classifier into an existing folder."""
    write_state(classifier, folder / "model.safetensors")
    (folder / CLASSIFIER).write_text(about.model_dump_json(indent=2) + "\n")


def load_classifier(folder: Path) -> Classifier:
    """The image tower and head of a classifier folder, in eval mode.

    Raises ValueError if the folder is none, or its weights are cut short, not finite or of another network.
    """
    about = read_about(folder)
    tower = build_clip(about.clip, filled=False).image_tower
    state = read_state(folder / "model.safetensors")
    if "head.weight" not in state:
        raise ValueError(f"{folder} lacks 'head.weight': it is no classifier")
    head = Head(state["head.weight"].shape[1], len(about.class_names))
    classifier = Classifier(tower, head)
    fill(classifier, state, str(folder))
    return classifier.eval()


def read_about(folder: Path) -> ClassifierInfo:
    """What the classifier of a folder is. Raises ValueError if the folder is no classifier."""
    return read_json(ClassifierInfo, folder / CLASSIFIER, "classifier")


def weights_root(data_root: Path | None) -> Path | None:
    """Where fetched weights lie: under the data root if there are any, else where open_clip puts them."""
    folder = data_root / WEIGHTS if data_root else None
    return folder if folder and folder.is_dir() else None


def key_of(clip: Clip) -> str:
    """16 hex digits that stand for an image tower, its weights and its preprocessing."""
    whole = hashlib.sha256(clip.preprocessing.model_dump_json().encode())
    for name, tensor in clip.image_tower.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]


def save_sae(sae: SparseAutoencoder, folder: Path, rescaled: bool = False) -> None:
    """Write an autoencoder or transcoder into a folder, as SAELens reads it; `rescaled` is as in `to_saelens`."""
    config, state = to_saelens(sae, rescaled)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SAE_WEIGHTS).write_bytes(save(state))
    (folder / SAE_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_sae(folder: Path, name: str | None = None, features: FeatureInfo | None = None) -> SparseAutoencoder:
    """An autoencoder: that of a folder, or the one called `name` of a folder of several.

    `features` describes those it will read; without, the folder must describe them itself, as those written here do.
    Raises ValueError if there is none, it was trained on features of another width, norm or backbone, or it is a
    transcoder, which reconstructs other features than it reads.
    """
    place = folder / name if name else folder
    config = _sae_config(place)
    features = features or _own_features(config)
    if features is None:
        raise ValueError(f"{place} does not say which features it reads: it was not written by amalgam")
    sae = from_saelens(config, read_state(place / SAE_WEIGHTS), features)
    if isinstance(sae, Transcoder):
        raise ValueError(f"{place} holds a transcoder, not an autoencoder: `amalgam sae eval` measures it")
    return sae


def open_sae(folder: Path) -> SparseAutoencoder:
    """An autoencoder or transcoder of anybody's folder, for features as the folder describes them.

    Raises ValueError if there is none, or SAELens's settings or weights there have no equal here.
    """
    config = _sae_config(folder)
    features = _own_features(config)
    if features is None:
        rescaled = config.get("normalize_activations") == "constant_norm_rescale"
        known = {**config, **(config.get("metadata") or {})}
        source = str(known.get("model_name") or folder.resolve().name)
        features = FeatureInfo(width=config.get("d_in") or 0, normalised=rescaled, backbone=source)
    return from_saelens(config, read_state(folder / SAE_WEIGHTS), features)


def _sae_config(place: Path) -> dict[str, Any]:
    try:
        config = json.loads((place / SAE_CONFIG).read_bytes())
    except FileNotFoundError:
        others = sorted(path.parent.name for path in place.parent.glob(f"*/{SAE_CONFIG}"))
        inside = sorted(f"{place.name}/{path.parent.name}" for path in place.glob(f"*/{SAE_CONFIG}"))
        known = f": choose from {', '.join(inside or others)}" if inside or others else ""
        raise ValueError(f"there is no sparse autoencoder at {place}{known}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place / SAE_CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{place / SAE_CONFIG} is no SAELens configuration: it holds a {type(config).__name__}")
    return config


def sae_key(folder: Path) -> str:
    """16 hex digits that stand for the weights of an autoencoder, so that numbers of its latents are not another's."""
    return hashlib.sha256((folder / SAE_WEIGHTS).read_bytes()).hexdigest()[:16]


def _own_features(config: dict[str, Any]) -> FeatureInfo | None:
    """The features that an autoencoder of ours says it was trained on; None for another's."""
    metadata = config.get("metadata")
    known = metadata.get(OURS) if isinstance(metadata, dict) else None
    try:
        return (
            FeatureInfo(**{name: known[name] for name in FeatureInfo.model_fields}) if isinstance(known, dict) else None
        )
    except (KeyError, ValidationError):
        return None
