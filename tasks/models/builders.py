"""From a `ModelSpec` to a module with random weights; add a network by a line in `BUILDERS` and one in `OPTIONS`."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from amalgam.tasks.models.plain import mlp, vgg11
from amalgam.tasks.models.resnet import resnet18
from amalgam.tasks.models.spec import PROGRAM, ModelSpec
from amalgam.tasks.models.vim2.networks import ViM2
from amalgam.tasks.user_names import is_in_file, load_name, unknown_name

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "vgg11": vgg11,
    "resnet18": resnet18,
    "vim2_tiny": ViM2,
}


PACKAGES = {"timm": "timm", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
"""What is installed for the networks of a library."""


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """The network of `spec`; the same seed gives the same weights, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if spec.name in BUILDERS:
            return BUILDERS[spec.name](spec.num_classes, spec.in_shape, **spec.options)
        if is_in_file(spec.name):
            return _from_file(spec)
        if spec.name.endswith(PROGRAM):
            raise ValueError(f"{spec.name} is read with its weights, not built: give it as a checkpoint")
        library, _, name = spec.name.partition(":")
        try:
            return {"timm": _timm, "torchvision": _torchvision, "open_clip": _open_clip}[library](name, spec)
        except ImportError as error:
            raise ValueError(
                f"{spec.name} needs a package that is not installed: pip install {PACKAGES[library]}"
            ) from error


def _from_file(spec: ModelSpec) -> nn.Module:
    """What a function or class in a user's file makes."""
    make = load_name(spec.name, "model")
    parameters = inspect.signature(make).parameters
    known = {"num_classes": spec.num_classes, "in_shape": spec.in_shape}
    named = {name: value for name, value in known.items() if name in parameters and name not in spec.options}
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    # A function may call its first two parameters otherwise; a class that needs neither gets neither.
    unnamed = len(set(required) - set(spec.options)) >= len(known) and not named
    module = _constructed(spec.name, make, *(known.values() if unnamed else ()), **named, **spec.options)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{spec.name} must give an nn.Module, got {type(module).__name__}")
    return module


def _timm(name: str, spec: ModelSpec) -> nn.Module:
    import timm  # takes seconds to import; only its own networks need it

    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    return _constructed(
        name,
        timm.create_model,
        name,
        pretrained=False,
        num_classes=spec.num_classes,
        in_chans=spec.in_shape[0],
        **spec.options,
    )


def _torchvision(name: str, spec: ModelSpec) -> nn.Module:
    from torchvision import models  # takes a second to import; only its own networks need it

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    if spec.in_shape[0] != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, got {spec.in_shape[0]}: use a timm model instead"
        )
    return _constructed(name, models.get_model, name, weights=None, num_classes=spec.num_classes, **spec.options)


def _open_clip(name: str, spec: ModelSpec) -> nn.Module:
    from amalgam.tasks.models.image_tower import open_clip_tower  # takes seconds to import

    return open_clip_tower(name)


def _constructed(name: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        module = make(*arguments, **options)
    except TypeError as error:  # Python's own word for an option that a constructor does not have
        raise ValueError(f"model {name!r} refused its options: {error}") from error
    return module
