"""Matchings on disk: slots in safetensors, what they mean in JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from amalgam.pipeline.store.canonical import canonical
from amalgam.tasks.fusion import Method
from amalgam.tasks.fusion.cost import Universe
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.matching import DirectMatching, Matching

SLOTS, FACTS = "matching.safetensors", "matching.json"


def save_matchings(methods: Sequence[Method], matchings: Sequence[Matching], folder: Path) -> None:
    """Write the matching of each method of a sweep."""
    slots = {
        f"{index}/{group}": table.contiguous()
        for index, matching in enumerate(matchings)
        for group, table in matching.universe.slots.items()
    }
    for index, matching in enumerate(matchings):
        for group, coupling in matching.found.items() if isinstance(matching, DirectMatching) else ():
            slots |= {f"{index}/{group}/{name}": tensor for name, tensor in _tensors(coupling).items()}
    (folder / SLOTS).write_bytes(save(slots))
    facts = [
        {
            "method": canonical(method),
            "num_matched": matching.universe.num_matched,
            "sizes": matching.sizes,
            "objective": matching.objective,
            "found": list(matching.found) if isinstance(matching, DirectMatching) else None,
        }
        for method, matching in zip(methods, matchings, strict=True)
    ]
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def load_matching(method: Method, folder: Path) -> Matching:
    """The matching that `method` found in a sweep."""
    facts = json.loads((folder / FACTS).read_text())
    index = [entry["method"] for entry in facts].index(canonical(method))
    found = facts[index]
    with safe_open(folder / SLOTS, framework="pt") as tables:
        slots = {group: tables.get_tensor(f"{index}/{group}").to(torch.long) for group in found["num_matched"]}
        couplings = {g: _coupling(tables, f"{index}/{g}", len(found["sizes"][g])) for g in found["found"] or ()}
    sizes = {group: tuple(counts) for group, counts in found["sizes"].items()}
    universe, objective = Universe(slots, found["num_matched"]), tuple(found["objective"])
    if found["found"] is not None:
        return DirectMatching(universe, sizes, objective, couplings)
    return Matching(universe, sizes, objective)


def _tensors(coupling: Coupling) -> dict[str, Tensor]:
    """What a coupling is made of, by field and member."""
    fields = {"fused_unit": coupling.fused_unit, "scale": coupling.scale, "plan": coupling.plan}
    return {f"{name}/{k}": t.contiguous() for name, parts in fields.items() for k, t in enumerate(parts or ())}


def _coupling(tables: safe_open, prefix: str, num_members: int) -> Coupling:
    names = set(tables.keys())
    parts = {
        field: tuple(tables.get_tensor(f"{prefix}/{field}/{k}") for k in range(num_members))
        for field in ("fused_unit", "scale", "plan")
        if f"{prefix}/{field}/0" in names
    }
    return Coupling(**parts)
