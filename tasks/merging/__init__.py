"""Merging of networks with a common start: methods as values, one solver, statistics, weights for members."""

from typing import Any

from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.methods.registry import MERGE_METHODS, find_merge_method

__all__ = ["MERGE_METHODS", "MergeMethod", "Statistics", "find_merge_method", "merge", "merged_tensors"]


def __getattr__(name: str) -> Any:
    # What computes needs torch, methods as values do not: plans and help pages import only the latter.
    import importlib

    homes = {"merge": "merging", "merged_tensors": "merging", "Statistics": "staged"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
