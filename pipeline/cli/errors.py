"""Errors of users in words: one sentence, whoever found it."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def sentence(error: ValueError) -> str:
    """One line for a user's error; pydantic's report becomes `field: what is allowed, got value`."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    return "; ".join(map(_clause, error.errors()))


def _clause(problem: ErrorDetails) -> str:
    where = ".".join(map(str, problem["loc"]))
    if "error" in problem.get("ctx", {}):
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where} must be given"
    return f"{where} {problem['msg'].replace('Input should', 'must', 1)}, got {problem['input']!r}"


def require_flags(kind: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the flag, if a field without a default is not given."""
    for name, field in kind.model_fields.items():
        if field.is_required() and name not in values:
            raise ValueError(f"{kind.__name__} needs a value for {name}: give {flag(name)}")


def flag(name: str) -> str:
    """A parameter as it is written on the command line."""
    return "--" + name.replace("_", "-")
