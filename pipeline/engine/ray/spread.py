"""Call a function on several items from inside a step: as tasks of the cluster that the step runs on, or here."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

Item = TypeVar("Item")
Found = TypeVar("Found")


def spread(function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """The results in the order of the items. A step that waits for its tasks lends them its cores."""
    if not ray.is_initialized():
        return [function(item) for item in items]
    shared, task = ray.put(function), ray.remote(_call)
    found: list[Found] = ray.get([task.remote(shared, item) for item in items])
    return found


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
