"""User-supplied data sets and models are part of a step's identity: when their files change, so does what read them.

A config says where such a set lies, not what it contains. Digests of names, sizes and times of change are taken when an
experiment is planned, once for a run; they need no torch and open no file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from amalgam.pipeline.engine.step import Step, changed_steps
from amalgam.tasks.data.catalogue import DataSpec, check, files_digest
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.user_names import file_digest, file_of, is_in_file, source_digest


def with_data(step: Step, data_root: Path | None) -> Step:
    """The same graph, every step with the digests of the data sets' and the models' files that its config names.

    Sets known by name are taken to be what their name says. Raises ValueError for a folder that cannot be read.
    """
    digest = cache(lambda name: files_digest(DataSpec(name=name), data_root))

    def data(step: Step) -> Mapping[str, Any]:
        parts = list(parts_of(step.config))
        found = {name: digest(name) for name in sorted({spec.name for spec in parts if isinstance(spec, DataSpec)})}
        models = {spec.name for spec in parts if isinstance(spec, ModelSpec) and is_in_file(spec.name)}
        found |= {name: file_digest(file_of(name)) for name in sorted(models)}
        for part in (step.function, *map(type, parts)):
            found |= {} if isinstance(part, str) else source_digest(part)
        return {"data": {**step.data, **{name: text for name, text in found.items() if text is not None}}}

    return changed_steps([step], data)[0]


def check_data(config: Any, data_root: Path | None) -> None:
    """Raise ValueError, saying what to fetch, unless the files of all data sets that a config names are there."""
    for spec in dict.fromkeys(part for part in parts_of(config) if isinstance(part, DataSpec)):
        check(spec, data_root)


def named_files(step: Step) -> set[Path]:
    """The Python files of the models and data sets that a step's config names."""
    names = [part.name for part in parts_of(step.config) if isinstance(part, DataSpec | ModelSpec)]
    return {file_of(name) for name in names if is_in_file(name)}


def parts_of(value: Any) -> Iterator[Any]:
    """A config and everything in it, however deep."""
    yield value
    for item in _items(value):
        yield from parts_of(item)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, BaseModel):
        yield from (item for _, item in value)
    elif is_dataclass(value):
        yield from (getattr(value, field.name) for field in fields(value))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (tuple, list)):
        yield from value
