"""LoRA adapters: merged factor by factor, or as the products that they stand for.

The mean of factors is not the mean of products, `sum w_i B_i sum w_i A_i != sum w_i B_i A_i`, unless the adapters share
one factor. A product of several adapters has a larger rank than each; cutting it back loses the stated residual.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from amalgam.tasks.merging.geometry.bases import truncated_svd
from amalgam.tasks.merging.merging import merge
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.staged import State

Space = Literal["product", "factors"]
FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])(?P<rest>(\.[^.]+)*)")


@dataclass(frozen=True)
class Adapter:
    """The tensors of a LoRA adapter, `lora_A` (rank, inputs) and `lora_B` (outputs, rank) of every layer."""

    state: State
    scaling: float = 1.0
    """`alpha / rank`: the factor on every product B A."""


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter, and how much of the merged products its rank cuts off."""

    state: dict[str, Tensor]
    scaling: float
    residual: dict[str, float] = field(default_factory=dict)
    """Per layer, Euclidean norm of what the rank cut off over that of the merged product; none in factor space."""


def is_adapter(state: State) -> bool:
    """Whether any tensor is a factor of LoRA."""
    return any(FACTOR.fullmatch(name) for name in state)


def merge_adapters(
    members: Sequence[Adapter], method: MergeMethod, space: Space = "product", rank: int | None = None
) -> MergedAdapter:
    """One adapter out of several for the same network.

    In product space `method` sees the updates `scaling B A` of every layer, with a base of zeros, and its result is
    factored again at `rank` (by default the members'). In factor space it sees the factors as they are.

    Raises ValueError for adapters of other layers; and for other ranks or scalings, unless `space` is "product" and
    `rank` is given.
    """
    if not members:
        raise ValueError("there is nothing to merge: give at least one adapter")
    layers = [factors_of(member.state) for member in members]
    for number, theirs in enumerate(layers[1:], 1):
        if odd := sorted(layers[0].keys() ^ theirs.keys()):
            raise ValueError(f"adapter {number} is for other layers than adapter 0: only one has {odd[0]!r}")
    _check_alike(members, layers, space, rank)
    if space == "factors":
        zeros = {name: torch.zeros_like(tensor) for name, tensor in members[0].state.items()}
        return MergedAdapter(merge(zeros, [m.state for m in members], method), members[0].scaling)
    return _merge_products(members, layers, method, rank)


def factors_of(state: State) -> dict[str, tuple[str, str]]:
    """Layer -> names of its A and B. Raises ValueError if one of a pair is missing or the state has other tensors."""
    found: dict[str, dict[str, str]] = {}
    for name in state:
        if (match := FACTOR.fullmatch(name)) is None:
            raise ValueError(f"{name!r} is no factor of LoRA: only lora_A and lora_B can be merged as products")
        found.setdefault(match["layer"] + match["rest"], {})[match["factor"]] = name
    for layer, pair in found.items():
        if len(pair) != 2:
            raise ValueError(f"the adapter has only one of the two factors of {layer!r}")
    return {layer: (pair["A"], pair["B"]) for layer, pair in found.items()}


def products(adapter: Adapter) -> dict[str, Tensor]:
    """Layer -> `scaling B A`, (outputs, inputs), in double precision."""
    return {
        layer: adapter.scaling * (adapter.state[b].double() @ adapter.state[a].double())
        for layer, (a, b) in factors_of(adapter.state).items()
    }


def _merge_products(
    members: Sequence[Adapter], layers: Sequence[Mapping[str, tuple[str, str]]], method: MergeMethod, rank: int | None
) -> MergedAdapter:
    updates = [products(member) for member in members]
    zeros = {layer: torch.zeros_like(update) for layer, update in updates[0].items()}
    scaling = members[0].scaling
    state, residual = {}, {}
    for layer, merged in merge(zeros, updates, method).items():
        a, b = layers[0][layer]
        size = rank or len(members[0].state[a])
        left, values, right = truncated_svd(merged, size)
        root = (values / scaling).sqrt()
        dtype = members[0].state[a].dtype
        state[a] = _padded((right * root).T, size, 0).to(dtype).contiguous()
        state[b] = _padded(left * root, size, 1).to(dtype).contiguous()
        length = float(merged.norm())
        residual[layer] = float((merged - (left * values) @ right.T).norm()) / length if length else 0.0
    return MergedAdapter({name: state[name] for name in members[0].state}, scaling, residual)


def _padded(matrix: Tensor, size: int, axis: int) -> Tensor:
    """Zeros for the directions that a product of smaller rank does not have."""
    missing = list(matrix.shape)
    missing[axis] = size - matrix.shape[axis]
    return torch.cat([matrix, matrix.new_zeros(missing)], dim=axis)


def _check_alike(
    members: Sequence[Adapter], layers: Sequence[Mapping[str, tuple[str, str]]], space: Space, rank: int | None
) -> None:
    if rank is not None and space == "factors":
        raise ValueError(f"factors keep their rank: rank {rank} applies to space='product' only")
    if rank is not None:
        return
    for number, member in enumerate(members[1:], 1):
        if member.scaling != members[0].scaling:
            raise ValueError(
                f"adapter {number} has scaling alpha / rank = {member.scaling:g} and adapter 0 {members[0].scaling:g}: "
                "merge their products (space='product') and give the rank of the result"
            )
        for layer, (a, _) in layers[number].items():
            ours, theirs = len(members[0].state[layers[0][layer][0]]), len(member.state[a])
            if ours != theirs:
                raise ValueError(
                    f"adapter {number} has rank {theirs} in {layer!r} and adapter 0 {ours}: "
                    "merge their products (space='product') and give the rank of the result"
                )
