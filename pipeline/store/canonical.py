"""One JSON text per meaning: what fingerprints are taken of, and how records write configs down."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def canonical(value: Any, where: str = "config") -> Any:
    """Plain JSON values that stand for `value`; models and dataclasses carry their class name as `class`.

    Raises TypeError, naming the field, for anything without a stable text form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value}")
        return value
    if isinstance(value, BaseModel):
        return _with_class(value, dict(value), where)
    if is_dataclass(value) and not isinstance(value, type):
        return _with_class(value, {f.name: getattr(value, f.name) for f in fields(value)}, where)
    if isinstance(value, Mapping):
        return {_text_key(key, where): canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where} has no stable text form: {type(value).__name__} (use numbers, text, lists or models)")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, naming the file, if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object")
    return content


def canonical_json(value: Any, where: str = "") -> str:
    """One text per meaning: keys sorted, no spaces, floats by `repr`."""
    return json.dumps(canonical(value, where), sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_classes(value: Any) -> Any:
    """The canonical form without the names of classes, as a model validates it."""
    if isinstance(value, Mapping):
        return {key: without_classes(item) for key, item in value.items() if key != "class"}
    return [without_classes(item) for item in value] if isinstance(value, list) else value


def _with_class(value: Any, items: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"class": type(value).__qualname__} | {k: canonical(v, f"{where}.{k}") for k, v in items.items()}


def _text_key(key: Any, where: str) -> str:
    if not isinstance(key, str) or key == "class":
        raise TypeError(f"{where} needs text keys other than 'class', got {key!r}")
    return key
