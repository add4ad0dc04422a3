"""A step's config and inputs as text: settings by path, and a name that tells a step from others of its kind."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amalgam.pipeline.store.artifact import Record

SAME_EVERYWHERE = ("Config", "Spec")  # endings of classes that say no more than the name of their setting

MOST_LETTERS = 60  # of a step's title: a table cuts off more
MOST_IN_WORD = 24  # of a setting in it: longer ones are lists
UNTOLD = ("false", "null", "[]", "{}", '""')  # values that say that a setting is not used


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings by path, such as `method.alpha`; a model's class stands at the path of the model itself."""
    return {path: value for path, value in _leaves(config, "") if path}


def parents(record: Record) -> list[str]:
    """Fingerprints of the steps a step read."""
    values = record.inputs.values()
    return [key for value in values for key in ([value] if isinstance(value, str) else value)]


def titles(records: Sequence[Record]) -> dict[str, str]:
    """A name for each step, by fingerprint: its kind, and what sets it apart from others of its kind.

    That is the settings in which they differ and, where that is not enough, what it reads.
    Inputs come before their readers.
    """
    alike = {record.name: [other.config for other in records if other.name == record.name] for record in records}
    differing = {kind: _differing(configs) for kind, configs in alike.items()}
    plain = {record.fingerprint: _in_words(record, differing[record.name]) for record in records}
    counts, found = Counter(plain.values()), dict[str, str]()
    for record in records:
        title = plain[record.fingerprint]
        read = [found[key] for key in parents(record) if key in found]
        if counts[title] > 1 and read:
            title += f" of {read[0]}" + (f" and {len(read) - 1} more" if len(read) > 1 else "")
        found[record.fingerprint] = title[:MOST_LETTERS]
    again = Counter(found.values())
    return {key: title if again[title] == 1 else f"{title} {key[:6]}" for key, title in found.items()}


def _differing(configs: Sequence[Mapping[str, Any]], most: int = 6) -> dict[str, str]:
    """Settings that have two values or more among the configs, by path, with the name to show, most varied first.

    A class, which has settings below it, speaks for itself and has no name.
    """
    values: dict[str, set[str]] = {}
    for path, value in (item for config in configs for item in flat(config).items()):
        values.setdefault(path, set()).add(value)
    found: dict[str, str] = {}
    for path in sorted((path for path in values if len(values[path]) > 1), key=lambda path: -len(values[path])):
        name = path.rpartition(".")[2]
        if name not in found.values():
            found[path] = "" if any(other.startswith(f"{path}.") for other in values) else name
    return dict(list(found.items())[:most])


def _in_words(record: Record, settings: Mapping[str, str]) -> str:
    """The record's kind and these settings of it, one that is named as the kind by its value alone."""
    values = flat(record.config)
    named = {path: name for path, name in settings.items() if path in values}
    words = [_word("" if name == record.name else name, values[path]) for path, name in named.items()]
    shown = {word.partition("=")[2] for word in words if not word[-1:].isdigit()}
    return " ".join(dict.fromkeys([record.name, *(word for word in words if word and word not in shown)]))


def _word(name: str, value: str) -> str:
    """A setting in a title: one that is on by its name, one that is off, or a long list, not at all."""
    if value.startswith("[["):  # settings as pairs
        value, name = " ".join(f"{key}={number}" for key, number in json.loads(value)), ""
    if value in UNTOLD or value.startswith("[") or len(value) > MOST_IN_WORD:
        return ""
    if value == "true" and name:
        return name
    return f"{name}={value}" if name else value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "class" and item.endswith(SAME_EVERYWHERE):
                continue
            yield from _leaves(item, path if key == "class" else f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}.{i}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
