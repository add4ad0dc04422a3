"""The prompts and class names that come with open_clip, read from its file: importing it takes seconds."""

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def openai_templates() -> tuple[str, ...]:
    """The 80 prompts of Radford et al. (2021) for ImageNet."""
    return tuple(template("{}") for template in _metadata().OPENAI_IMAGENET_TEMPLATES)


def imagenet_classes() -> tuple[str, ...]:
    """Their 1000 class names, in the order of ImageNet's labels; two names occur twice."""
    return tuple(_metadata().IMAGENET_CLASSNAMES)


@cache
def _metadata() -> ModuleType:
    package = find_spec("open_clip")  # which finds it and does not run it
    assert package is not None and package.origin is not None, "open_clip is installed with amalgam"
    file = spec_from_file_location("zero_shot_metadata", Path(package.origin).with_name("zero_shot_metadata.py"))
    assert file is not None and file.loader is not None, "open_clip has its prompts in a file of their own"
    module = module_from_spec(file)
    file.loader.exec_module(module)
    return module
