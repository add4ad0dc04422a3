"""Merge the encoders of several tasks: settings are chosen on validation images, the choice is tested on every task."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializeAsAny

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.multitask.spec import TaskSpec

if TYPE_CHECKING:
    from amalgam.pipeline.steps.merging.bench import Bench

Reference = Literal["base", "fine-tuned"]


class RowConfig(Config):
    """One row of the table: a grid of settings of one method, or a reference."""

    label: str
    """Name of the row."""
    grid: tuple[SerializeAsAny[MergeMethod], ...] = ()
    """What is chosen from; empty for a reference."""
    reference: Reference | None = None
    """The base behind each task's head, or every task's own network."""
    validation_share: float
    seed: int
    num_rows: int = Field(default=256, ge=1)
    """Images of each task that batch norms are measured anew on, and that RegMean++ runs."""


class MergedConfig(RowConfig):
    """A row over tasks whose heads were fitted."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1)


def merge_tasks(config: MergedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the merged network and `results.parquet`: test accuracy on every task, their mean and the worst.

    The network has one encoder and, side by side, the heads of all tasks.
    """
    from amalgam.pipeline.steps.merging.bench import Bench

    return merged_row(config, Bench.opened(config, inputs, work), [task.name for task in config.tasks], work)


def merged_row(config: RowConfig, bench: "Bench", tasks: Sequence[str], work: Workspace) -> Metrics:
    """Choose and test one row, and write what `merge_tasks` does; `tasks` are names."""
    from amalgam.pipeline.store.measures import recorded
    from amalgam.tasks.merging.multitask.choosing import choose
    from amalgam.tasks.scoring.results import Network

    network = Network(kind="fused", method=config.label, seed=config.seed)
    found: dict[str, float] = {}
    if config.reference == "fine-tuned":
        accuracies = bench.own_accuracies()
    else:
        merged = bench.base
        if config.reference is None:
            statistics = bench.statistics(config.grid[0])
            chosen = choose(config.grid, bench.base, bench.members, statistics, bench.validate, work.log)
            merged, found = chosen.merged, facts_of(chosen)
        accuracies = bench.test(merged)
        bench.save(merged, tasks, work.out)
    return recorded(results_of(network, tasks, accuracies, found), work.out)


def results_of(network: Any, tasks: Sequence[str], accuracies: Sequence[float], found: Mapping[str, float]) -> list:
    """A row for every task, by name, for their mean and the worst, and for what was found in choosing."""
    from amalgam.tasks.scoring.results import Result

    rows = [Result(network, "test", task, "accuracy", a) for task, a in zip(tasks, accuracies, strict=True)]
    rows.append(Result(network, "test", None, "accuracy", sum(accuracies) / len(accuracies)))
    rows.append(Result(network, "test", None, "worst_accuracy", min(accuracies)))
    return rows + [Result(network, "chosen", None, name, value) for name, value in found.items()]


def facts_of(chosen: Any) -> dict[str, float]:
    """What was chosen, as numbers: the validation score, the scale, eta, whether the edge of the grid won."""
    found = {"validation_accuracy": chosen.validation, "fallbacks": float(chosen.fallbacks)}
    if (scale := getattr(chosen.method, "scale", None)) is not None:
        found |= {"scale": scale, "at_edge": float(chosen.at_edge)}
    return found | ({} if chosen.eta is None else {"eta": chosen.eta})


MERGED_TASKS = Kind("merged", merge_tasks, MergedConfig, version=2, expect=Expect(5, 500_000))
