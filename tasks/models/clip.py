"""Image and text encoders through open_clip, from files that are on this machine; nothing here uses the network.

The only module that knows open_clip. Shapes: images (batch, channels, height, width), features (batch, width), which
are not normalised.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from amalgam.tasks.models.clip_files.weights import fetched_weights, load_weights, snapshot_folder, tag_settings
from amalgam.tasks.models.clip_files.word_tokenizer import WordTokenizer
from amalgam.tasks.models.clip_spec import ClipSpec, Preprocessing
from amalgam.tasks.models.image_tower import ImageTower
from amalgam.tasks.user_names import unknown_name

Tokenizer = Callable[[list[str]], Tensor]

TEXT_BATCH = 256  # captions encoded at once


@dataclass(frozen=True)
class Clip:
    """Two encoders into one space."""

    model: Any
    """open_clip's network (an nn.Module, of which type checkers know nothing): both towers and the logit scale."""
    tokenizer: Tokenizer
    preprocessing: Preprocessing

    @property
    def image_tower(self) -> ImageTower:
        """The image encoder on its own: images to features. It shares its parameters with `model`."""
        return ImageTower(self.model.visual)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to become logits: 100 for OpenAI's weights."""
        return float(self.model.logit_scale.detach().double().exp())

    def encode_image(self, images: Tensor) -> Tensor:
        """Features (batch, width) of preprocessed images, with gradients unless the caller turns them off."""
        features: Tensor = self.model.encode_image(images)
        return features

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, width) of captions, without gradients, on the device of the network."""
        device = self.model.logit_scale.device
        tokens = self.tokenizer(list(texts)).to(device).split(TEXT_BATCH)
        return torch.cat([self.model.encode_text(part) for part in tokens])


def build_clip(spec: ClipSpec, root: Path | None = None, *, filled: bool = True) -> Clip:
    """The encoders of `spec` in eval mode, on the CPU; not `filled`, they keep random weights, for others to come.

    `root` is the folder of fetched weights; None is where open_clip puts them. Equal specs give equal weights, and the
    global random state is left as it was. Raises ValueError for unknown names (with near ones), for weights that are
    not on this machine (with the command that fetches them), and for files that do not fit.
    """
    config = _config(spec, root)
    tokenizer = _tokenizer(spec, config, root)
    source = (spec.checkpoint or (spec.pretrained and fetched_weights(spec, root))) if filled else None
    model = _module(config, spec)
    if source:
        load_weights(model, Path(source), spec)
    return Clip(model.eval(), tokenizer, spec.preprocessing or _preprocessing(spec, model))


def require_weights(spec: ClipSpec, root: Path | None = None) -> None:
    """Raise ValueError, as `build_clip` does, for names or files that are not there, without building anything.

    Also for pictures prepared otherwise than those that the weights of a tag were trained on.
    """
    _tokenizer(spec, _config(spec, root), root)
    for name, own in _trained_with(spec).items():
        if spec.preprocessing and getattr(spec.preprocessing, name) != own:
            raise ValueError(
                f"the weights {spec.pretrained!r} of {spec.name} were trained on pictures with {name} {own}, not "
                f"{getattr(spec.preprocessing, name)}: use that preprocessing, or choose other weights"
            )
    source = spec.checkpoint or (spec.pretrained and fetched_weights(spec, root))
    if source and not Path(source).is_file():
        raise ValueError(f"there is no checkpoint {source}")


def _config(spec: ClipSpec, root: Path | None) -> dict[str, Any]:
    """The arguments of the network, complete: nothing left that open_clip would fetch."""
    if isinstance(spec.architecture, str):
        if spec.architecture not in open_clip.list_models():
            raise unknown_name("CLIP architecture", spec.architecture, open_clip.list_models())
        config = copy.deepcopy(open_clip.get_model_config(spec.architecture))
        if tag_settings(spec).get("quick_gelu"):
            config["quick_gelu"] = True
    else:
        config = copy.deepcopy(spec.architecture)
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        known = [field.name for field in fields(kind)]
        for key in config[part]:
            if key not in known:
                raise unknown_name(f"setting of {part}", key, known)
    _require_size(spec, config["vision_cfg"].get("image_size", CLIPVisionCfg.image_size))
    text = config["text_cfg"]
    if spec.words:
        text["vocab_size"] = WordTokenizer(spec.words, 2).vocab_size
    if text.get("hf_model_name"):
        folder = snapshot_folder(text["hf_model_name"], "config.json", spec, root)
        text |= {"hf_model_name": folder, "hf_model_pretrained": False}
    config["vision_cfg"]["timm_model_pretrained"] = False
    return config


def _require_size(spec: ClipSpec, image_size: Any) -> None:
    """Raise ValueError if pictures are made of another size than the encoder reads."""
    reads = _height_and_width(image_size)
    if spec.preprocessing and spec.preprocessing.size != reads:
        raise ValueError(
            f"{spec.name} reads pictures of {reads[0]} x {reads[1]} pixels, "
            f"got an image size of {' x '.join(map(str, spec.preprocessing.size))}"
        )


def _module(config: dict[str, Any], spec: ClipSpec) -> nn.Module:
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        try:
            model: nn.Module = kind(**config)
        except (TypeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            raise ValueError(f"open_clip cannot build {spec.name}: {error}") from error
    return model


def _tokenizer(spec: ClipSpec, config: dict[str, Any], root: Path | None) -> Tokenizer:
    text = config["text_cfg"]
    length = text.get("context_length", CLIPTextCfg.context_length)
    if spec.words:
        return WordTokenizer(spec.words, length)
    options = text.get("tokenizer_kwargs") or {}
    if text.get("hf_tokenizer_name"):
        folder = snapshot_folder(text["hf_tokenizer_name"], "tokenizer_config.json", spec, root)
        hub: Tokenizer = HFTokenizer(folder, length, tokenizer_mode=text.get("tokenizer_mode"), **options)
        return hub
    pairs = SimpleTokenizer(context_length=length, **options)
    if text.get("vocab_size", pairs.vocab_size) < pairs.vocab_size:
        raise ValueError(
            f"open_clip's tokenizer has {pairs.vocab_size} tokens, text_cfg.vocab_size is {text['vocab_size']}: "
            "leave it out, or give the words of the captions"
        )
    return pairs


def _preprocessing(spec: ClipSpec, model: nn.Module) -> Preprocessing:
    size = _height_and_width(model.get_submodule("visual").image_size)
    return Preprocessing(size=size, **_trained_with(spec))


def _trained_with(spec: ClipSpec) -> dict[str, Any]:
    """What open_clip knows of how pictures were prepared for the weights of a tag, but for their size."""
    return {
        key: value for key, value in tag_settings(spec).items() if key in Preprocessing.model_fields and key != "size"
    }


def _height_and_width(size: Any) -> tuple[int, int]:
    """An image size as open_clip has it, one number or two."""
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return height, width
