"""Matchings on disk: slots in safetensors, what they mean in JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from amalgam.pipeline.store.canonical import canonical
from amalgam.tasks.fusion import Method
from amalgam.tasks.fusion.cost import Universe
from amalgam.tasks.fusion.matching import Matching

SLOTS, FACTS = "matching.safetensors", "matching.json"


def save_matchings(methods: Sequence[Method], matchings: Sequence[Matching], folder: Path) -> None:
    """Write the matching of each method of a sweep."""
    slots = {
        f"{place}/{group}": table.contiguous()
        for place, matching in enumerate(matchings)
        for group, table in matching.universe.slots.items()
    }
    (folder / SLOTS).write_bytes(save(slots))
    facts = [
        {
            "method": canonical(method),
            "num_matched": matching.universe.num_matched,
            "sizes": matching.sizes,
            "objective": matching.objective,
        }
        for method, matching in zip(methods, matchings, strict=True)
    ]
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def load_matching(method: Method, folder: Path) -> Matching:
    """The matching that `method` found in a sweep."""
    facts = json.loads((folder / FACTS).read_text())
    place = [entry["method"] for entry in facts].index(canonical(method))
    found = facts[place]
    with safe_open(folder / SLOTS, framework="pt") as tables:
        slots = {group: tables.get_tensor(f"{place}/{group}").to(torch.long) for group in found["num_matched"]}
    sizes = {group: tuple(counts) for group, counts in found["sizes"].items()}
    return Matching(Universe(slots, found["num_matched"]), sizes, tuple(found["objective"]))
