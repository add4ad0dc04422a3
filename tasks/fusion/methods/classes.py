"""Heads whose members know different classes: the fused head has an output for every class that any of them knows.

A class that one member knows gets that member's logit; one that several know, their mean, weighted as the members are
(the setting of ZipIt, Stoica et al. 2024, and PLeaS, Nasery et al. 2025).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.rebuild.tensors import along
from amalgam.tasks.fusion.unit_map import CLASSES, IndexedMap
from amalgam.tasks.tracing.axes import Axes, Blocks

ClassNames = Sequence[Sequence[str]]


def class_union(class_names: ClassNames) -> tuple[str, ...]:
    """The classes of all members, in the order of first appearance: the outputs of the fused network."""
    return tuple(dict.fromkeys(name for names in class_names for name in names))


def class_couplings(
    axes: Axes, states: Sequence[Mapping[str, Tensor]], class_names: ClassNames | None
) -> dict[str, Coupling]:
    """The coupling of the members' outputs by the names of their classes; empty where all know the same in one order.

    Raises ValueError if names are given for other numbers of outputs, twice, or for a network with several heads.
    """
    if class_names is None:
        return {}
    if len(class_names) != len(states):
        raise ValueError(f"class_names has lists for {len(class_names)} members, there are {len(states)}")
    if len(axes.heads) != 1:
        raise ValueError(f"class_names is for networks of one head, this one has {len(axes.heads)}: leave it out")
    (head,) = axes.heads
    for member, (names, state) in enumerate(zip(class_names, states, strict=True)):
        if len(set(names)) != len(names):
            raise ValueError(f"class_names of member {member} name {_twice(names)!r} twice")
        is_one_logit = axes.sizes(state)[head] == 1 and len(names) == 2 and tuple(names) == tuple(class_names[0])
        if len(names) != (size := axes.sizes(state)[head]) and not is_one_logit:
            raise ValueError(f"member {member} has {size} outputs, but {len(names)} class names")
    if len({tuple(names) for names in class_names}) == 1:
        return {}
    places = {name: place for place, name in enumerate(class_union(class_names))}
    coupling = Coupling(tuple(torch.tensor([places[name] for name in names]) for names in class_names))
    return {head if head in axes.outputs else CLASSES: coupling}


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
