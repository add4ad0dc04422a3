"""Networks with a common start become one: state dicts in, a state dict out, tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amalgam.tasks.merging.checks import check_finite, check_networks
from amalgam.tasks.merging.geometry.parameter import Parameter
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.staged import State, Statistics, as_statistics, check_basis

Log = Callable[[str, Mapping[str, float | str]], None]


def merge(
    base: State | None,
    members: Sequence[State],
    method: MergeMethod,
    statistics: Any = None,
    log: Log | None = None,
) -> dict[str, Tensor]:
    """The members merged by `method`, as a new state dict with their names, shapes and dtypes.

    `base` is the common start, or None where the method needs none. `statistics` is what a method like Fisher reads:
    staged `Statistics`, or one mapping from parameter to array per member. Integer buffers are kept from the base, or
    else from the first member. `log` is called with the name of a tensor and what the method found there, such as its
    eta or the fallback it took. The networks are not changed and share no memory with the result.

    Raises ValueError for networks that differ in names, shapes or dtypes, for NaN, a missing base, and statistics that
    are missing or of other weights.
    """
    return dict(merged_tensors(base, members, method, statistics, log))


def merged_tensors(
    base: State | None,
    members: Sequence[State],
    method: MergeMethod,
    statistics: Any = None,
    log: Log | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The same as a stream in the order of the first member's names, reading one tensor of each network at a time.

    Everything but NaN is checked before the first tensor is read. Raises ValueError like `merge`.
    """
    check_networks(base, members, method)
    known = as_statistics(statistics, method.need)
    if method.need is not None:
        known = known.checked(method.need, members)
    if method.need == "projected" and known.basis is not None and base is not None:
        check_basis(known.basis, base, members, getattr(method, "rank", None))
    if method.by_tensor:
        return _one_by_one(base, members, method, known, log)
    return _at_once(base, members, method, known)


def _one_by_one(
    base: State | None, members: Sequence[State], method: MergeMethod, statistics: Statistics, log: Log | None
) -> Iterator[tuple[str, Tensor]]:
    tied: dict[tuple[int, ...], Tensor] | None = {} if all(isinstance(one, dict) for one in members) else None
    for name in members[0]:
        tensors = [member[name] for member in members]
        start = None if base is None else base[name]
        if not _mergeable(tensors[0]):
            yield name, (tensors[0] if start is None else start.to(tensors[0].dtype)).detach().clone()
            continue
        # One tensor under two names stays one: a second draw of DARE would untie it.
        place = tuple(part for tensor in tensors for part in (tensor.data_ptr(), *tensor.shape))
        if tied is not None and place in tied:
            yield name, tied[place].clone()
            continue
        parameter = Parameter(name, start, tensors, statistics)
        merged = _merged(parameter, method)
        if tied is not None:
            tied[place] = merged
        if log is not None and parameter.facts:
            log(name, parameter.facts)
        yield name, merged


def _at_once(
    base: State | None, members: Sequence[State], method: MergeMethod, statistics: Statistics
) -> Iterator[tuple[str, Tensor]]:
    for name in members[0]:
        if _mergeable(members[0][name]):
            check_finite(name, None if base is None else base[name], [member[name] for member in members])
    merged = method.whole(base, members, statistics)
    for name, first in members[0].items():
        source = first if base is None else base[name]
        yield name, merged[name] if _mergeable(first) else source.to(first.dtype).detach().clone()


def _merged(parameter: Parameter, method: MergeMethod) -> Tensor:
    check_finite(parameter.name, parameter.base, parameter.members)
    result = method.tensor(parameter)
    if parameter.name.endswith("running_var"):
        result = _variance(result, parameter)
    merged = result.to(parameter.members[0].dtype)
    if merged.data_ptr() in {tensor.data_ptr() for tensor in parameter.members}:
        merged = merged.clone()
    if not bool(torch.isfinite(merged.sum())) and not bool(torch.isfinite(merged).all()):
        raise ValueError(f"the merged {parameter.name!r} does not fit {merged.dtype}: choose a smaller scale")
    return merged


def _variance(merged: Tensor, parameter: Parameter) -> Tensor:
    """Sums of task vectors can make a variance negative; there the members' smallest replaces it."""
    smallest = parameter.values[0].clone()
    for value in parameter.values[1:]:
        smallest = torch.minimum(smallest, value)
    return torch.where(merged < 0, smallest.to(merged), merged)


def _mergeable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0
