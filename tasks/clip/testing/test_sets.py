"""What a fine-tuned network is tested on, as data: images, the part they play, and how their answers are read.

Importable without torch, so that plans are instant.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from amalgam.tasks.clip.prompts import checked_names, templates_of
from amalgam.tasks.data.sources import CORRUPTIONS, Corrupted, Source

Role = Literal["id", "seen", "unseen", "natural", "forgetting"]
"""As the fine-tuning images; shifts that pre-training saw, never saw, or found in nature; classes never tuned on."""
MetricName = Literal["accuracy", "macro_f1", "worst_group"]
VALIDATION = "validation"
"""What the held-out images of the labelled ones are called among the test sets."""
ROLES: tuple[Role, ...] = ("id", "seen", "unseen", "natural", "forgetting")


class TestSet(BaseModel):
    """One set of labelled images that a network is tested on, and never chosen by."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    __test__: ClassVar[bool] = False  # pytest takes classes of this name for tests

    name: str
    """Short and its own: it is part of the names of metrics."""
    role: Role
    """Which average it enters."""
    source: Source
    """Its images."""
    columns: tuple[tuple[int, ...], ...] = ()
    """For each of its classes, the classes of the head that stand for it, the largest of whose logits counts.

    Empty where its classes are those of the head.
    """
    class_names: tuple[str, ...] = ()
    """What its classes are called in prompts; empty takes the names that come with the images."""
    templates: str | tuple[str, ...] = ()
    """Where given, it is classified by a zero-shot head of its own, made of these and the backbone's text tower."""
    metric: MetricName = "accuracy"
    """Its official metric; accuracy is reported of every set."""

    @model_validator(mode="after")
    def _settings_agree(self) -> "TestSet":
        if not self.name or set(self.name) & set("/@= "):
            raise ValueError(f"the name of a test set is a word without '/', '@' or '=', got {self.name!r}")
        if self.templates:
            templates_of(self.templates)
        if self.class_names:
            checked_names(self.class_names)
        if self.columns and self.templates:
            raise ValueError(f"test set {self.name!r} has a head of its own classes: leave out columns or templates")
        if self.class_names and not self.templates:
            raise ValueError(f"test set {self.name!r} has class names but no templates to make a head of: give both")
        if self.role == "forgetting" and not self.templates:
            raise ValueError(f"test set {self.name!r} has classes that the head lacks: give templates")
        if not all(self.columns):
            raise ValueError(f"test set {self.name!r} has a class without columns of the head: give it at least one")
        return self

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """Accuracy, and the official metric where it is another."""
        return ("accuracy",) if self.metric == "accuracy" else ("accuracy", self.metric)


def corrupted_sets(
    test_sets: Sequence[TestSet], corruptions: Sequence[str], severities: Sequence[int]
) -> tuple[TestSet, ...]:
    """The images like those of fine-tuning under corruptions, each a set KIND-SEVERITY; "all" stands for every kind.

    Raises ValueError for a kind or severity that there is not, and if no set has the role "id".
    """
    kinds = CORRUPTIONS if tuple(corruptions) == ("all",) else tuple(corruptions)
    clean = [test_set for test_set in test_sets if test_set.role == "id"]
    if kinds and not clean:
        raise ValueError("corruptions need a test set of role 'id', and there is none")
    if kinds and not severities:
        raise ValueError("corruptions need severities from 1 to 5, got none")
    return tuple(
        TestSet(**dict(test_set) | {"name": f"{kind}-{severity}", "role": "unseen", "source": source})
        for test_set in clean
        for kind in kinds
        for severity in severities
        for source in (Corrupted(source=test_set.source, corruption=kind, severity=severity),)
    )


def check_test_sets(test_sets: Sequence[TestSet]) -> None:
    """Raise ValueError if there are none, or two have one name."""
    names = [test_set.name for test_set in test_sets]
    if not names:
        raise ValueError("there is no test set: give at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two test sets are called {twice[0]!r}: their metrics would have one name")
