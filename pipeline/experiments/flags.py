"""The flags of experiments: types of several values, and groups of flags that belong together.

A group is a frozen dataclass whose fields have a type and a help text, such as `Optimisation`. An experiment takes it
as one parameter, whose default may differ from that of other experiments; `flat` makes its fields flags of their own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from amalgam.tasks.data.sources import CORRUPTIONS

Floats = tuple[float, ...]
Ints = tuple[int, ...]
Texts = tuple[str, ...]
StrengthForm = Annotated[
    Literal["mean", "sum"],
    "mean: strengths multiply means over features, as in the paper's code; sum: sums, at every width alike. 100 at "
    "width 64 is 1.5625 as a sum and 800 at width 512.",
]
StrengthInputs = Annotated[
    Literal["own", "unit"],
    "unit: strengths are meant for features of norm 1, and converted where an autoencoder reads raw ones; own: as they "
    "are.",
]
LabelSmoothing = Annotated[float, "Label smoothing, as in torch.nn.CrossEntropyLoss."]
FirstSeed = Annotated[int, "Seed of the first repetition; the others count up from it."]
GroupColumn = Annotated[
    str | None,
    "Column of metadata.csv or array of an .npz (subject, camera): no value of it is on both sides of a split.",
]
Precision = Annotated[Literal["fp32", "bf16", "fp16"], "Training precision (autocast)."]
T = TypeVar("T")


@dataclass(frozen=True)
class Optimisation:
    """How networks are trained, in what all experiments choose."""

    epochs: Annotated[int, "Passes over the training images; the best by validation is kept."] = 6
    batch_size: Annotated[int, "Images per step, over all processes."] = 128
    learning_rate: Annotated[float, "Peak learning rate."] = 5e-4
    weight_decay: Annotated[float, "Weight decay, as in torch.optim."] = 0.1


@dataclass(frozen=True)
class Sweep:
    """What is tried of every fine-tuning method, and how one of it is chosen."""

    strengths: Annotated[
        Floats, "Grid of the regularisation strength lambda; nuclear and l2-sp scale it to their units."
    ] = (
        30.0,
        100.0,
        300.0,
    )
    strength_form: StrengthForm = "mean"
    strength_inputs: StrengthInputs = "own"
    alphas: Annotated[
        Floats, "WiSE-FT weights of the fine-tuned network: 0 is the CLIP before, 1 after; only 1 omits WiSE-FT."
    ] = (0.3, 0.5, 0.7, 1.0)
    tolerance: Annotated[
        float, "Largest drop in validation accuracy (fraction) accepted when choosing a larger regularisation strength."
    ] = 0.01
    compare: Annotated[
        Texts, "Two of the methods to compare at equal in-distribution accuracy, such as sae-mask,l2; default: none."
    ] = ()

    @property
    def choices(self) -> dict[str, Any]:
        """The same as fields of a recipe."""
        return {name: value for name, value in vars(self).items() if name != "strengths"} | {"factors": self.strengths}


@dataclass(frozen=True)
class Autoencoders:
    """The sparse autoencoder that features are read with."""

    k: Annotated[int, "Active latents per image (top-k); usual is feature width / 32."] = 4
    expansion: Annotated[float, "Latents per dimension of the features."] = 4.0
    sae_epochs: Annotated[int, "Passes over the cached features."] = 60


@dataclass(frozen=True)
class Corruptions:
    """Corrupted test images."""

    corruptions: Annotated[
        Texts, f"Corruptions of the test images to test on too: all, or some of {', '.join(CORRUPTIONS)}."
    ] = ()
    severities: Annotated[Ints, "Severities of the corruptions, from 1 to 5."] = (1, 3, 5)


def flat(experiment: Callable[..., T]) -> Callable[..., T]:
    """The same experiment, called with the fields of its groups in place of the groups.

    Raises ValueError if two of its parameters come to have one name.
    """
    hints = get_type_hints(experiment, include_extras=True)
    signature = inspect.signature(experiment)
    groups = {name: hint for name, hint in hints.items() if name in signature.parameters and _is_group(hint)}
    if not groups:
        return experiment
    parameters = [
        flag
        for each in signature.parameters.values()
        for flag in _flags(each, hints.get(each.name, inspect.Parameter.empty))
    ]
    names = [parameter.name for parameter in parameters]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{experiment.__qualname__} has two parameters {min(twice)!r}: rename one")

    @wraps(experiment)
    def flattened(**arguments: Any) -> T:
        made = {name: _made(signature.parameters[name].default, kind, arguments) for name, kind in groups.items()}
        return experiment(**arguments, **made)

    flattened.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    flattened.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": hints.get("return")}
    return flattened


def require_some(**flags: int | Sequence[Any]) -> None:
    """Raise ValueError, naming the flag, for a number below 1, and for a list that is empty or repeats a value."""
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, int):
            if value < 1:
                raise ValueError(f"{flag} must be at least 1, got {value}")
        elif not value:
            raise ValueError(f"{flag} is empty: give at least one value")
        elif twice := [each for each in value if value.count(each) > 1]:
            raise ValueError(f"{flag} names {twice[0]} twice: give every value once")


def in_words(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What was chosen by name, for readers of a report; groups field by field."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        found |= {f.name: getattr(value, f.name) for f in fields(value)} if _is_group(type(value)) else {name: value}
    return {name.replace("_", " "): str(value) for name, value in found.items()}


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _flags(parameter: inspect.Parameter, hint: Any) -> list[inspect.Parameter]:
    def flag(name: str, hint: Any, default: Any) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)

    if not _is_group(hint):
        return [flag(parameter.name, hint, parameter.default)]
    hints = get_type_hints(hint, include_extras=True)
    return [flag(f.name, hints[f.name], _default(f, parameter.default)) for f in fields(hint)]


def _default(field: Field[Any], group: Any) -> Any:
    if group is not inspect.Parameter.empty:
        return getattr(group, field.name)
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _made(default: Any, kind: Any, arguments: dict[str, Any]) -> Any:
    """The group, its fields taken out of the arguments."""
    chosen = {f.name: arguments.pop(f.name) for f in fields(kind) if f.name in arguments}
    return kind(**chosen) if default is inspect.Parameter.empty else replace(default, **chosen)
