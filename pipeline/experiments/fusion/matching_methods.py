"""The matching methods of a fusion experiment by name: those of the registry, and a user's own."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from amalgam.tasks.fusion import METHODS, Budget, Method
from amalgam.tasks.fusion.methods import Cost
from amalgam.tasks.user_names import load_name, unknown_name

NAMES = tuple(method.__name__ for method in METHODS)


def method_class(name: str) -> type[Method]:
    """The class of that name, or the one that `path/to/file.py:Class` names."""
    kinds = {kind.__name__: kind for kind in METHODS}
    if name in kinds:
        return kinds[name]
    if ":" not in name:
        raise unknown_name("method", name, kinds)
    found = load_name(name, "class")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"{name} is no matching method: it must be a class derived from amalgam.Method")
    if found.__name__ in kinds:
        raise ValueError(f"{name} has the name of an existing method: rename the class")
    return found


def matching_methods(names: Sequence[str], alphas: Sequence[float], cost: Cost) -> tuple[Method, ...]:
    """The methods of those names; one that has an alpha without a default at every alpha, from the tightest up."""
    if not names:
        raise ValueError(f"give at least one method, such as --methods {NAMES[-1]}")
    kinds = [method_class(name) for name in names]
    called = [kind.__name__ for kind in kinds]
    if twice := {name for name in called if called.count(name) > 1}:
        raise ValueError(f"method {min(twice)!r} appears twice: give each method once")
    return tuple(method for kind in kinds for method in _each(kind, alphas, cost))


def budgets(flops: Sequence[str], cost: Cost) -> tuple[Method, ...]:
    """A budget for each multiple of one member's operations, such as `1.3x`, from the smallest up."""
    return tuple(Budget(flops=limit, cost=cost) for limit in sorted(set(map(times, flops))))


def times(text: str) -> float:
    """The number of a multiple, `1.3x` or `1.3`."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise ValueError(f"a budget is a multiple of one member, such as 1.3x, got {text!r}") from None


def _each(kind: type[Method], alphas: Sequence[float], cost: Cost) -> list[Method]:
    fields = kind.model_fields
    shared: dict[str, Any] = {"cost": cost} if "cost" in fields else {}
    swept = "alpha" in fields and fields["alpha"].default is PydanticUndefined
    if swept and not alphas:
        raise ValueError("give at least one alpha, such as --alphas 0,0.5,1")
    return [kind(**shared | {"alpha": alpha}) for alpha in sorted(set(alphas))] if swept else [kind(**shared)]
