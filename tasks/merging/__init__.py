"""Merging of networks with a common start: methods as values, one solver, statistics, weights for members."""

from amalgam.lazy import lazy
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.methods.registry import MERGE_METHODS, find_merge_method

__all__ = ["MERGE_METHODS", "MergeMethod", "Statistics", "find_merge_method", "merge", "merged_tensors", "stage"]

HOMES = {"merge": "merging", "merged_tensors": "merging", "Statistics": "staged", "stage": "statistics.staging"}
__getattr__ = lazy(__name__, HOMES)
