"""What is refused before anything is merged: networks that do not fit each other, or the method."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from amalgam.tasks.merging.methods.method import Linear, MergeMethod
from amalgam.tasks.merging.staged import State


def check_networks(base: State | None, members: Sequence[State], method: MergeMethod) -> None:
    """Raise ValueError unless `method` can merge these networks, judged by their names, shapes and dtypes."""
    check_number(len(members), method)
    if base is None and method.needs_base:
        raise ValueError(f"{type(method).__name__} merges differences to a common start: give the base, got None")
    first, *others = [described(member) for member in members]
    for number, member in enumerate(others, 1):
        _check_same("member 0", first, f"member {number}", member, dtypes=True)
    if base is not None:
        _check_same("member 0", first, "the base", described(base), dtypes=False)
    for name, tensor in first.items():
        if tensor.is_complex():
            raise ValueError(f"{name!r} is of {tensor.dtype}: complex tensors cannot be merged")


def described(state: State) -> State:
    """Tensors of the state's shapes and dtypes; from a state that has `meta(name)`, nothing is read."""
    meta = getattr(state, "meta", None)
    return state if meta is None else {name: meta(name) for name in state}


def check_number(count: int, method: MergeMethod) -> None:
    """Raise ValueError unless the method takes that many members, and has weights for each of them."""
    kind = type(method)
    if not count:
        raise ValueError("there is nothing to merge: give at least one member")
    if kind.num_members not in (None, count):
        raise ValueError(f"{kind.__name__} takes {kind.num_members} member(s), got {count}")
    if count < kind.fewest_members:
        raise ValueError(f"{kind.__name__} takes at least {kind.fewest_members} members, got {count}")
    if isinstance(method, Linear) and method.weights is not None and len(method.weights) != count:
        raise ValueError(f"give one weight per member: {count} members, {len(method.weights)} weights")


def check_finite(name: str, base: Tensor | None, members: Sequence[Tensor]) -> None:
    """Raise ValueError, naming network and tensor, if one has NaN or infinity."""
    named = [(f"member {number}", tensor) for number, tensor in enumerate(members)]
    for who, tensor in (*named, *([("the base", base)] if base is not None else [])):
        # The sum is one pass without a mask, and finite if the entries are, but for overflow.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{who} has NaN or infinity in {name!r}: it cannot be merged")


def _check_same(who: str, ours: State, other: str, theirs: State, *, dtypes: bool) -> None:
    if odd := sorted(ours.keys() ^ theirs.keys()):
        has = who if odd[0] in ours else other
        raise ValueError(
            f"{who} and {other} are different networks: only {has} has {odd[0]!r}{_more(odd)}; "
            "merging needs members of one architecture"
        )
    shapes = {n: (tuple(ours[n].shape), tuple(theirs[n].shape)) for n in ours}
    if different := [name for name, (one, two) in shapes.items() if one != two]:
        one, two = shapes[different[0]]
        raise ValueError(
            f"{different[0]!r} has shape {one} in {who} and {two} in {other}{_more(different)}; "
            "merging needs members of one architecture"
        )
    kinds = {n: (ours[n].dtype, theirs[n].dtype) for n in ours}
    if different := [name for name, pair in kinds.items() if _differ(*pair, exactly=dtypes)]:
        first, second = kinds[different[0]]
        raise ValueError(
            f"{different[0]!r} is {first} in {who} and {second} in {other}{_more(different)}; convert one of them"
        )


def _differ(one: torch.dtype, two: torch.dtype, *, exactly: bool) -> bool:
    return one != two if exactly else one.is_floating_point != two.is_floating_point


def _more(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, islice(names, 1, 3)))
    rest = len(names) - 3
    return (f", {shown}" if shown else "") + (f" and {rest} more" if rest > 0 else "")
