"""`amalgam merge`: weights in files in, weights in a folder out, tensor by tensor; no store and no Ray."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from amalgam.pipeline.reports.builder import write_rows
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.canonical import canonical
from amalgam.pipeline.store.checkpoints import PICTURES, read_spec
from amalgam.pipeline.store.state_files import ADAPTER, INDEX, SINGLE, StateFile, open_state, write_safetensors
from amalgam.pipeline.store.tables.statistics import read_statistics
from amalgam.tasks.merging import MergeMethod, merged_tensors
from amalgam.tasks.merging.adapters import Adapter, is_adapter, merge_adapters
from amalgam.tasks.merging.checks import described
from amalgam.tasks.merging.staged import Statistics
from amalgam.tasks.merging.statistics.conflict import conflicts

ORIGIN, ADAPTER_CONFIG, CONFLICTS = "merge.json", "adapter_config.json", "conflicts"
MOST_NAMED = 5  # tensors that are printed; the table holds all
COPIED = ("config.json", "generation_config.json", "classifier.json", PICTURES)


@dataclass(frozen=True)
class MergeRequest:
    """What to merge, how, and where to."""

    checkpoints: tuple[Path, ...]
    """The common start, unless there is none, then the members."""
    method: MergeMethod
    has_base: bool
    out: Path
    statistics: Path | None = None
    """Folder of staged statistics."""
    space: Literal["product", "factors"] | None = None
    """Of LoRA adapters."""
    adapter_rank: int | None = None
    conflicts: bool = False
    """Whether to write where members disagree, too."""

    @property
    def members(self) -> tuple[Path, ...]:
        """Where the members' weights lie."""
        return self.checkpoints[self.has_base :]


def require_loadable(request: MergeRequest) -> None:
    """Raise ValueError unless the members are folders that say how their network is built, as the result then does."""
    if not (request.members[0] / "classifier.json").is_file():
        read_spec(request.members[0])


def merge_files(request: MergeRequest) -> list[str]:
    """Write the merged weights to `request.out`; a few sentences on what the method found.

    Raises ValueError, before anything lies there, for any bad input.
    """
    if not request.method.by_tensor:
        raise ValueError(
            f"{type(request.method).__name__} must run the networks on data: call amalgam.merge, or run the experiment "
            "multi_task_merging"
        )
    if not request.members:
        raise ValueError("give the base and then the members, or --no-base and only the members")
    states = [open_state(path) for path in request.members]
    if is_adapter(states[0]):
        return _merge_adapters(request, states)
    for flag, value in (("--space", request.space), ("--adapter-rank", request.adapter_rank)):
        if value is not None:
            raise ValueError(f"{flag} is for LoRA adapters, and {request.members[0]} is none")
    base = open_state(request.checkpoints[0]) if request.has_base else None
    known = None if request.statistics is None else read_statistics(request.statistics)
    if request.conflicts and base is None:
        raise ValueError("members disagree in how they moved from a base: give the base, or leave --conflicts out")
    facts: dict[str, Mapping[str, float | str]] = {}
    stream = merged_tensors(base, states, request.method, known, facts.__setitem__)
    with new_folder(request.out) as folder:
        _write(states[0], stream, folder)
        for name in COPIED:
            if (source := request.members[0] / name).is_file():
                shutil.copyfile(source, folder / name)
        _write_origin(request, {"tensors": facts}, folder)
        found = _write_conflicts(base, states, known, folder) if request.conflicts and base is not None else []
    return [*_findings(facts), *found]


def _write(first: Mapping[str, Tensor], stream: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """The stream in files as the first member's are: one, or shards with an index."""
    meta = described(first)
    shards = first.shards if isinstance(first, StateFile) and len(first.shards) > 1 else {SINGLE: list(first)}
    for file, names in shards.items():
        write_safetensors(folder / file, {name: meta[name] for name in names}, islice(stream, len(names)))
    next(stream, None)  # the checks after the last tensor
    if len(shards) > 1:
        places = {name: file for file, names in shards.items() for name in names}
        size = sum(one.numel() * one.element_size() for one in meta.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _merge_adapters(request: MergeRequest, states: list[Mapping[str, Tensor]]) -> list[str]:
    """Adapters are differences to their network already: passed as the base, it is not read."""
    paths, space = request.members, request.space or "product"
    if request.has_base and is_adapter(first := open_state(request.checkpoints[0])):
        paths, states = request.checkpoints, [first, *states]
    configs = [_adapter_config(path) for path in paths]
    adapters = [Adapter(dict(state), _scaling(config)) for state, config in zip(states, configs, strict=True)]
    merged = merge_adapters(adapters, request.method, space, request.adapter_rank)
    with new_folder(request.out) as folder:
        write_safetensors(folder / ADAPTER, merged.state, merged.state.items())
        if configs[0]:
            rank = request.adapter_rank or configs[0]["r"]
            config = configs[0] | {"r": rank, "lora_alpha": merged.scaling * rank}
            (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        _write_origin(request, {"space": space, "residual": merged.residual}, folder)
    worst = max(merged.residual.values(), default=0.0)
    return [f"merged {len(adapters)} LoRA adapters in {space} space; largest relative error of a layer: {worst:.1%}"]


def _adapter_config(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / ADAPTER_CONFIG
    return json.loads(file.read_text()) if file.is_file() else {}


def _scaling(config: Mapping[str, Any]) -> float:
    """`alpha / rank`, or `alpha / sqrt(rank)` of rank-stabilised adapters; 1 by default."""
    if not config:
        return 1.0
    rank = config["r"]
    return config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)


def _write_origin(request: MergeRequest, found: Mapping[str, Any], folder: Path) -> None:
    """Write next to the weights what they were made from."""
    origin = {
        "base": str(request.checkpoints[0]) if request.has_base else None,
        "members": [str(path) for path in request.members],
        "method": canonical(request.method),
        "paper": request.method.paper,
        **found,
    }
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")


def _write_conflicts(
    base: Mapping[str, Tensor], states: list[Mapping[str, Tensor]], known: Statistics | None, folder: Path
) -> list[str]:
    """Write `conflicts.csv` and `.parquet`; the tensors in which members agree least, in sentences."""
    rows = [{"label": name, **asdict(found)} for name, found in conflicts(base, states, known)]
    write_rows(rows, folder, CONFLICTS)
    worst = sorted(rows, key=lambda row: row["cosine"])[:MOST_NAMED]
    return [
        f"{row['label']}: {row['sign_agreement']:.0%} of signs agree, cosine {row['cosine']:.2f}"
        + ("" if row["overlap"] is None else f", subspaces overlap by {row['overlap']:.2f}")
        + ("" if row["eta"] is None else f", eta {row['eta']:.3g}")
        for row in worst
    ]


def _findings(facts: Mapping[str, Mapping[str, float | str]]) -> list[str]:
    etas = [float(found["eta"]) for found in facts.values() if "eta" in found]
    fallen = [name for name, found in facts.items() if "fallback" in found]
    lines = [f"heterogeneity eta over {len(etas)} matrices: {sum(etas):.4g}"] if etas else []
    if fallen:
        more = f" and {len(fallen) - 1} more" if len(fallen) > 1 else ""
        lines.append(f"{fallen[0]}{more} fell back to the {facts[fallen[0]]['fallback']}")
    return lines
