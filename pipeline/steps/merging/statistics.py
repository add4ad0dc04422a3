"""Stage what merge methods read: shards of each member's data are summed apart, and one step adds the sums."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.merging.multitask.spec import TaskSpec

Estimator = Literal["exact", "sampled", "empirical", "batch"]


class ShardConfig(Config):
    """Fisher information and input Grams of one member on a part of its training images."""

    task: TaskSpec
    validation_share: float
    seed: int
    """That of the member, which says what was held out; it also draws the classes of "sampled"."""
    estimator: Estimator
    """Whose classes the gradients are of; see `tasks.merging.statistics.fisher`."""
    num_rows: int = Field(ge=1)
    """Training images in all shards together, at most."""
    shard: int = Field(ge=0)
    num_shards: int = Field(ge=1)


class StatisticsConfig(Config):
    """How many shards each member's data lie in."""

    num_shards: int = Field(ge=1)
    estimator: Estimator


class ProjectedConfig(Config):
    """Gradients of single examples in the basis that a base and its members name at a rank."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    validation_share: float
    seed: int
    """That of the members; it also draws the examples."""
    rank: int | None = None
    num_rows: int = Field(default=64, ge=1)
    """Training images of each task, at most; "exact" gives a row for every class of each."""


class ConflictsConfig(Config):
    """Where the members of one repetition disagree."""

    seed: int
    rank: int | None = None
    """Directions of each matrix that are compared; None: as many as all tasks can have apart."""


def stage_shard(config: ShardConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `sums.parquet`: sums of squared gradients and of outer products of inputs, without the head's."""
    import torch

    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.pipeline.store.tables.statistics import write_sums
    from amalgam.tasks.data.loading import batches
    from amalgam.tasks.merging.multitask.data import BATCH_SIZE, task_data
    from amalgam.tasks.merging.multitask.heads import head_of
    from amalgam.tasks.merging.statistics.fisher import fisher_sums
    from amalgam.tasks.merging.statistics.grams import gram_sums
    from amalgam.tasks.scoring.sums import Sums

    shape = read_spec(inputs["member"]).in_shape
    parts = task_data(config.task, shape, config.validation_share, config.seed, work.data_root)
    member = load_model(inputs["member"])
    name, head = head_of(member)
    head.requires_grad_(False)
    order = torch.randperm(len(parts.pool), generator=torch.Generator().manual_seed(config.seed))[: config.num_rows]
    chosen = torch.as_tensor(parts.pool)[order].tensor_split(config.num_shards)[config.shard]
    read = [(batch.images, batch.labels) for batch in batches(parts.train, chosen, BATCH_SIZE)]
    fisher = fisher_sums(member, read, config.estimator, config.seed * config.num_shards + config.shard)
    grams = gram_sums(member, (images for images, _ in read))
    kept = {layer: total for layer, total in grams.items() if not layer.startswith(name + ".")}
    write_sums(work.out, {"fisher": fisher, "grams": Sums(kept, grams.num_examples)})
    return {"rows": fisher.num_examples, "data_fingerprint": parts.train.fingerprint}


def stage_statistics(config: StatisticsConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `statistics.parquet`: the shards of every member added in the order of their numbers."""
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.tables.statistics import read_sums, write_statistics
    from amalgam.tasks.merging.multitask.heads import encoder_state
    from amalgam.tasks.merging.statistics.staging import assembled
    from amalgam.tasks.scoring.sums import added

    shards, count = [read_sums(folder) for folder in inputs["shards"]], config.num_shards
    by_member = [shards[start : start + count] for start in range(0, len(shards), count)]
    totals = [
        {kind: added({number: shard[kind] for number, shard in enumerate(parts)}) for kind in ("fisher", "grams")}
        for parts in by_member
    ]
    states = [encoder_state(load_model(folder)) for folder in inputs["members"]]
    fisher, grams = [total["fisher"] for total in totals], [total["grams"] for total in totals]
    data = " ".join(str(read_record(folder).metrics["data_fingerprint"]) for folder in inputs["shards"][::count])
    write_statistics(work.out, assembled(states, fisher, grams, config.estimator), data)
    return {f"rows/{member}": sums.num_examples for member, sums in enumerate(fisher)}


def stage_projected(config: ProjectedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `statistics.parquet`: projected gradients, the name of their basis, the weights and data they are of."""
    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.pipeline.store.tables.statistics import write_statistics
    from amalgam.tasks.merging.multitask.data import task_data
    from amalgam.tasks.merging.multitask.heads import encoder_state, head_of
    from amalgam.tasks.merging.staged import Statistics, digest
    from amalgam.tasks.merging.statistics.fisher import projected_gradients
    from amalgam.tasks.merging.statistics.staging import named_basis

    shape = read_spec(inputs["base"]).in_shape
    modules = [load_model(folder) for folder in inputs["members"]]
    states = [encoder_state(module) for module in modules]
    atoms, basis = named_basis(encoder_state(load_model(inputs["base"])), states, config.rank)
    parts = [task_data(t, shape, config.validation_share, config.seed, work.data_root) for t in config.tasks]
    for module in modules:
        head_of(module)[1].requires_grad_(False)
    rows = tuple(
        projected_gradients(module, part.batches(config.num_rows), atoms, seed=config.seed)
        for module, part in zip(modules, parts, strict=True)
    )
    known = Statistics(projected=rows, models=tuple(map(digest, states)), basis=basis, estimator="exact")
    write_statistics(work.out, known, " ".join(part.train.fingerprint for part in parts))
    return {"matrices": len(atoms), "basis": basis}


def find_conflicts(config: ConflictsConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `results.parquet`: a row for every tensor and measure of conflict, by the names of tensors."""
    from dataclasses import asdict

    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.pipeline.store.tables.statistics import read_statistics
    from amalgam.tasks.merging.multitask.heads import encoder_state
    from amalgam.tasks.merging.statistics.conflict import conflicts
    from amalgam.tasks.scoring.results import CONFLICT, Network, Result

    base, *members = (encoder_state(load_model(folder)) for folder in (inputs["base"], *inputs["members"]))
    found = dict(conflicts(base, members, read_statistics(inputs["statistics"]), config.rank))
    results = [
        Result(Network(kind="fused", method=name, seed=config.seed), CONFLICT, None, measure, value)
        for name, one in found.items()
        for measure, value in asdict(one).items()
        if value is not None
    ]
    write_results(results, work.out)
    cosines = [one.cosine for one in found.values()]
    return {"cosine": sum(cosines) / len(cosines), "tensors": len(found)}


PROJECTED = Kind("projected_gradients", stage_projected, ProjectedConfig, expect=Expect(10, 2_000_000))
CONFLICTS = Kind("merge_conflicts", find_conflicts, ConflictsConfig, expect=Expect(3, 50_000))
SHARD = Kind("statistics_shard", stage_shard, ShardConfig, expect=Expect(5, 2_000_000))
STATISTICS = Kind("merge_statistics", stage_statistics, StatisticsConfig, expect=Expect(2, 4_000_000))
