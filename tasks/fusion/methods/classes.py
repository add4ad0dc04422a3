"""Heads whose members know different classes: the fused head has an output for every class that any of them knows.

A class that one member knows gets that member's logit; one that several know, their mean, weighted as the members are
(the setting of ZipIt, Stoica et al. 2024, and PLeaS, Nasery et al. 2025).
"""

from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.tensors import along
from amalgam.tasks.fusion.unit_map import CLASSES, IndexedMap
from amalgam.tasks.tracing.axes import Axes, Blocks
from amalgam.tasks.tracing.nodes import is_tensor

ClassNames = Sequence[Sequence[str]] | Sequence[Mapping[str, Sequence[str]]]
"""Per member: the names of its outputs, or of those of each head. Heads are named as the network returns them: by the
key in a dictionary, by the number in a tuple, joined by dots where they are nested ("boxes", "1", "rest.0")."""


@overload
def class_union(class_names: Sequence[Sequence[str]]) -> tuple[str, ...]: ...
@overload
def class_union(class_names: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]: ...
def class_union(class_names: ClassNames) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """The classes of all members, in the order of first appearance: the outputs of the fused network (of each head)."""
    if heads := [names for names in class_names if isinstance(names, Mapping)]:
        return {head: class_union([names[head] for names in heads]) for head in heads[0]}
    return tuple(dict.fromkeys(name for names in class_names for name in names))


def class_couplings(
    axes: Axes, states: Sequence[Mapping[str, Tensor]], class_names: ClassNames | None
) -> dict[str, Coupling]:
    """The coupling of the members' outputs by the names of their classes; without heads of which all know the same.

    Raises ValueError if names are given for other heads or numbers of outputs, or twice.
    """
    if class_names is None:
        return {}
    if len(class_names) != len(states):
        raise ValueError(f"class_names has lists for {len(class_names)} members, there are {len(states)}")
    found = {}
    for head, names in _by_head(axes, class_names).items():
        if coupling := _coupling(axes, states, head, names):
            found[head if head in axes.outputs else CLASSES] = coupling
    if CLASSES in found and len(axes.heads) > 1:
        raise ValueError(
            "members know different classes of a head that each computes apart, beside others: fuse one head at a time"
        )
    return found


def _by_head(axes: Axes, class_names: ClassNames) -> dict[str, list[Sequence[str]]]:
    """Group of outputs -> each member's names."""
    if len(axes.heads) == 1 and not any(isinstance(names, Mapping) for names in class_names):
        return {axes.heads[0]: list(class_names)}  # type: ignore[arg-type]
    keys, given = _keys(axes), [names if isinstance(names, Mapping) else {} for names in class_names]
    for member, names in enumerate(given):
        if not set(names) <= set(keys) or {keys[key] for key in names} != set(axes.heads):
            raise ValueError(
                f"class_names of member {member} must be a dictionary that names the classes of every head, with keys "
                f"{', '.join(map(repr, keys))}"
            )
    return {keys[key]: [names[key] for names in given] for key in given[0]}


def _keys(axes: Axes) -> dict[str, str]:
    """How the network returns its heads -> their groups."""
    assert axes.traced
    program, found = axes.traced.program, {}
    values = pytree.tree_unflatten(list(program.graph.output_node().args[0]), program.output_structure)  # type: ignore[arg-type]
    for path, node in pytree.tree_flatten_with_path(values)[0]:
        layouts = axes.traced.layouts(node) if is_tensor(node) else None
        groups = {segment.group for layout in (layouts or {}).values() for segment in layout.segments}
        for group in groups & set(axes.heads):
            found[".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)] = str(group)
    return found


def _coupling(
    axes: Axes, states: Sequence[Mapping[str, Tensor]], head: str, class_names: Sequence[Sequence[str]]
) -> Coupling | None:
    for member, (names, state) in enumerate(zip(class_names, states, strict=True)):
        if len(set(names)) != len(names):
            raise ValueError(f"class_names of member {member} name {_twice(names)!r} twice")
        is_one_logit = axes.sizes(state)[head] == 1 and len(names) == 2 and tuple(names) == tuple(class_names[0])
        if len(names) != (size := axes.sizes(state)[head]) and not is_one_logit:
            raise ValueError(f"member {member} has {size} outputs, but {len(names)} class names")
    if len({tuple(names) for names in class_names}) == 1:
        return None
    places = {name: place for place, name in enumerate(class_union(class_names))}
    return Coupling(tuple(torch.tensor([places[name] for name in names]) for names in class_names))


def names_of(members: Sequence[nn.Module]) -> ClassNames | None:
    """The names that the members themselves hold (`class_names`), if all of them do."""
    found = [getattr(member, "class_names", None) for member in members]
    return None if None in found else found  # type: ignore[return-value]


def aligned(axes: Axes, states: Sequence[Blocks], couplings: Mapping[str, Coupling]) -> list[Blocks]:
    """The members' blocks with an entry for every class of the union, 0 where a member does not know it.

    So that costs compare what two heads say of the same class.
    """

    def placed(name: str, tensor: Tensor, member: int) -> Tensor:
        for index, axis in enumerate(axes.of[name]):
            if axis and axis.group in couplings:
                places = couplings[axis.group].fused_unit[member]
                whole = IndexedMap(places, torch.ones(len(places)), couplings[axis.group].width)
                tensor = along(tensor, index, axis, whole)
        return tensor

    return [Blocks({n: placed(n, t, member) for n, t in state.items()}) for member, state in enumerate(states)]


def compared(couplings: Mapping[str, Coupling], member: int) -> dict[str, Tensor]:
    """Head -> the outputs of a member whose classes all members know."""
    common = {group: coupling.contains().all(0) for group, coupling in couplings.items()}
    return {g: torch.nonzero(common[g][coupling.fused_unit[member]])[:, 0] for g, coupling in couplings.items()}


def _twice(names: Sequence[str]) -> str:
    return next(name for place, name in enumerate(names) if name in names[:place])
