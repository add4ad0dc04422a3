"""Which CLIP, as data: an architecture of open_clip by name or by its own configuration, and where its weights are.

`tasks.models.clip` builds it.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amalgam.tasks.user_names import unknown_name

OPEN_CLIP_CONFIG, CLIP_WEIGHTS = "open_clip_config.json", "clip.safetensors"
"""Files in a folder of a CLIP: its architecture and preprocessing, as open_clip reads them, and its weights."""
REQUIRED = ("embed_dim", "vision_cfg", "text_cfg")
OPTIONAL = ("quick_gelu", "init_logit_scale", "init_logit_bias", "custom_text")


class Preprocessing(BaseModel):
    """How a picture becomes the tensor that an encoder was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    """Subtracted from each channel, whose values are in [0, 1]; OpenAI's by default."""
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    """What each channel is then divided by; OpenAI's by default."""
    interpolation: str = "bicubic"
    """How pixels are resampled: bicubic, bilinear or random."""
    resize_mode: str = "shortest"
    """What becomes `size` before a centre crop: shortest or longest side, or squash for both."""


class ClipSpec(BaseModel):
    """A pair of encoders; the default is a random network, `pretrained` or `checkpoint` say where trained weights are.

    Weights with `pretrained="openai"`, and others that were trained so, get their quick-gelu form by themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str | dict[str, Any]
    """A name of open_clip ("ViT-B-16"), or a configuration as in its model_configs: embed_dim, vision_cfg, text_cfg."""
    pretrained: str | None = None
    """A tag of open_clip ("openai", "laion2b_s34b_b88k") whose weights are on this machine."""
    checkpoint: str | None = None
    """A file of weights: .safetensors, or .pt, read as tensors only."""
    words: tuple[str, ...] = ()
    """The whole vocabulary, for a small world of its own; empty takes the tokenizer of the architecture."""
    preprocessing: Preprocessing | None = None
    """How pictures are prepared; None takes what the weights were trained with, or OpenAI's values."""
    seed: int = Field(default=0, ge=0)
    """Draws the weights that are not read from anywhere."""

    @model_validator(mode="after")
    def _is_one_network(self) -> "ClipSpec":
        if self.pretrained and self.checkpoint:
            raise ValueError(f"give pretrained {self.pretrained!r} or checkpoint {self.checkpoint!r}, not both")
        if isinstance(self.architecture, str):
            return self
        if self.pretrained:
            raise ValueError(
                f"the tag pretrained={self.pretrained!r} belongs to a named architecture: "
                "for a configuration give checkpoint, a file"
            )
        for key in self.architecture:
            if key not in REQUIRED + OPTIONAL:
                raise unknown_name("setting of a CLIP architecture", key, REQUIRED + OPTIONAL)
        missing = [key for key in REQUIRED if key not in self.architecture]
        if missing:
            raise ValueError(f"a CLIP architecture needs {', '.join(REQUIRED)}: {missing[0]} is missing")
        return self

    @property
    def name(self) -> str:
        """The architecture's name, for messages."""
        return self.architecture if isinstance(self.architecture, str) else "the custom architecture"
