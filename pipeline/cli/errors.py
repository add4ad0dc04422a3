"""Errors of users in words: one sentence, whoever found it."""

from pydantic import ValidationError
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
