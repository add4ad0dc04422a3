"""Prompt templates by name, as data, and what makes a class name a prompt; importable without torch."""

from collections.abc import Callable, Sequence

from amalgam.tasks.models.clip_files.prompts import openai_templates
from amalgam.tasks.user_names import unknown_name

SLOT = "{}"  # where a template takes the class name
ARTICLE = "a(n) {}"  # where it takes the class name after a or an

SIMPLE_TEMPLATES = ("a photo of a {}.",)
IWILDCAM_TEMPLATES = ("a photo of {}.", "{} in the wild.")
"""The two prompts that the literature on robust fine-tuning uses for WILDS iWildCam."""
CONTINENTS = ("asia", "africa", "the americas", "europe", "oceania")
FMOW_TEMPLATES = (
    "satellite photo of a {}.",
    "aerial photo of a {}.",
    "satellite photo of a(n) {}.",
    "aerial photo of a(n) {}.",
    *(f"{view} photo of a {{}} in {continent}." for continent in CONTINENTS for view in ("satellite", "aerial")),
    "a photo of a {}.",
    "{}.",
)
"""The sixteen prompts that the literature uses for WILDS FMoW."""
TEMPLATE_SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "openai": openai_templates,
    "simple": lambda: SIMPLE_TEMPLATES,
    "iwildcam": lambda: IWILDCAM_TEMPLATES,
    "fmow": lambda: FMOW_TEMPLATES,
}


def prompt(template: str, name: str) -> str:
    """The sentence that a template makes of a class name."""
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return template.replace(ARTICLE, f"{article} {SLOT}").replace(SLOT, name)


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The sentences of a set by name, or of a given list, each with a slot {} for the class name.

    Raises ValueError for an unknown set, an empty list and a template without a slot.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise unknown_name("set of templates", templates, TEMPLATE_SETS)
        return TEMPLATE_SETS[templates]()
    if not templates:
        raise ValueError('there are no templates: give at least one, as "a photo of a {}."')
    for template in templates:
        if SLOT not in template:
            raise ValueError(
                f'the template {template!r} has no slot {{}} for the class name, as in "a photo of a {{}}."'
            )
    return tuple(templates)


def spoken(name: str) -> str:
    """A class name as a prompt says it: what files write with underscores has spaces, in every template alike."""
    return name.replace("_", " ")


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The class names. Raises ValueError if there are none, or one is empty."""
    if isinstance(names, str) or not names:
        raise ValueError(f"class names are a list of at least one name, got {names!r}")
    for position, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"class {position} has an empty name: every class needs one to make its prompt")
    return tuple(names)
