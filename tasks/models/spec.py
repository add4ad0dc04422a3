"""What a network is, as data: its name, classes, input shape and options. `tasks.models.build` makes it."""

import math
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from amalgam.tasks.models.vim2.sizes import check_sides, vim2_parameters
from amalgam.tasks.user_names import is_in_file, unknown_name

Activation = Literal["relu", "gelu", "silu", "tanh"]


class Options(BaseModel):
    """The options of one kind of network."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MLPOptions(Options):
    """Options of "mlp"."""

    widths: tuple[PositiveInt, ...] = (100, 100, 100)
    """Units in each hidden layer."""
    activation: Activation = "gelu"
    """What follows each hidden layer."""
    bias: bool = True
    """Whether the layers have biases."""


class VGGOptions(Options):
    """Options of "vgg11"."""

    width: float = Field(default=1.0, gt=0)
    """Multiplier of the channels 64, 128, 256, 256, 512, 512, 512, 512."""
    activation: Activation = "relu"
    """What follows each convolution."""
    batch_norm: bool = False
    """Whether each convolution is followed by batch norm."""
    bias: bool = True
    """Whether convolutions (those without batch norm) and the classifier have biases."""


class ResNetOptions(Options):
    """Options of "resnet18"."""

    width: float = Field(default=1.0, gt=0)
    """Multiplier of the channels 64, 128, 256, 512 of the four stages."""
    activation: Activation = "relu"
    """What follows each batch norm and each residual sum."""
    bias: bool = True
    """Whether the classifier has a bias."""


class ViM2Options(Options):
    """Options of "vim2_tiny"."""

    width: PositiveInt = 96
    """Channels of the first stage; each later one has twice as many."""
    depths: tuple[PositiveInt, ...] = Field(default=(2, 6), min_length=1)
    """Pairs of a token and a channel mixer in each stage."""
    states: PositiveInt = 8
    """States that a selective layer keeps for each channel."""
    token_mixer: Literal["selective", "mlp"] = "selective"
    """Mixer of tokens; "mlp" is that of MLP-Mixer."""
    channel_mixer: Literal["selective", "mlp"] = "selective"
    """Mixer of channels; "mlp" is that of MLP-Mixer."""
    weighted_skips: bool = True
    """Whether the averages of earlier features are learned; otherwise they stay those of a residual network."""


OPTIONS: dict[str, type[Options]] = {
    "mlp": MLPOptions,
    "vgg11": VGGOptions,
    "resnet18": ResNetOptions,
    "vim2_tiny": ViM2Options,
}
LIBRARIES = ("timm", "torchvision", "open_clip")
PROGRAM = ".pt2"  # a file of torch.export, whose network is in it
BYTES = 4  # of a float32
MOST_PARAMETERS = 2e10  # 80 GB
AT_FULL_WIDTH = {"vgg11": 9.2e6, "resnet18": 11.2e6}
"""Parameters at width 1; their number grows with its square."""


class ModelSpec(BaseModel):
    """A classifier by name, with every option spelled out, so that equal networks have equal specs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """A name in `OPTIONS`, "timm:NAME" or "torchvision:NAME" for a classifier of those libraries, "open_clip:NAME" for
    an image tower, "path/to/file.py:NAME" for a class or function in a user's file, or a .pt2 file of torch.export.
    A user's are called with the options, and with num_classes and in_shape if they have parameters of these names."""
    num_classes: int = Field(gt=0)
    """Number of outputs."""
    in_shape: tuple[int, int, int]
    """Channels, height, width of the images it is fed."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options by name, plain values; those of a library's network are passed to its constructor."""

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        library, _, rest = name.partition(":")
        is_known = name in OPTIONS or (library in LIBRARIES and rest) or is_in_file(name) or name.endswith(PROGRAM)
        if not is_known:
            known = (*OPTIONS, *(f"{library}:NAME" for library in LIBRARIES), "file.py:NAME", f"file{PROGRAM}")
            raise unknown_name("model", name, known)
        return name

    @model_validator(mode="after")
    def _options_are_complete(self) -> "ModelSpec":
        kind = OPTIONS.get(self.name)
        if kind is not None:
            for option in self.options:
                if option not in kind.model_fields:
                    raise unknown_name(f"option of {self.name}", option, kind.model_fields)
            try:
                self.options.update(kind(**self.options).model_dump())
            except ValidationError as error:
                first = error.errors()[0]
                option = ".".join(map(str, first["loc"]))
                raise ValueError(f"option {option} of {self.name}: {first['msg']}, got {first['input']!r}") from error
            if self.name == "vim2_tiny":
                check_sides(self.in_shape, len(self.options["depths"]))
            require_affordable(self)
        return self


def require_affordable(spec: ModelSpec) -> None:
    """Raise ValueError, with the number, if the network would have more than `MOST_PARAMETERS`."""
    count = _num_parameters(spec)
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"{spec.name} of these options would have {count:.3g} parameters, {count * BYTES / 1e9:.3g} GB: "
            f"choose smaller widths, at most {MOST_PARAMETERS:.0e} parameters"
        )


def _num_parameters(spec: ModelSpec) -> float:
    """About how many parameters it has; 0 where that is not known."""
    if spec.name == "mlp":
        sizes = (math.prod(spec.in_shape), *spec.options["widths"], spec.num_classes)
        return float(sum(before * after for before, after in pairwise(sizes)))
    if spec.name == "vim2_tiny":
        return vim2_parameters(spec.num_classes, spec.in_shape, spec.options)
    return AT_FULL_WIDTH[spec.name] * float(spec.options["width"]) ** 2 if spec.name in AT_FULL_WIDTH else 0
