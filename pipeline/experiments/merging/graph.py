"""The graph of an experiment on merging: one base, its fine-tuned tasks, their statistics, a step for every method."""

from collections.abc import Iterator
from dataclasses import dataclass

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import in_words
from amalgam.pipeline.steps.fusion.members import MEMBER, MemberConfig
from amalgam.pipeline.steps.merging.merged import MERGED_TASKS, MergedConfig, Reference
from amalgam.pipeline.steps.merging.personal import EMBEDDINGS, PERSONAL, EmbeddingsConfig, PersonalConfig
from amalgam.pipeline.steps.merging.statistics import (
    CONFLICTS,
    PROJECTED,
    SHARD,
    STATISTICS,
    ConflictsConfig,
    Estimator,
    ProjectedConfig,
    ShardConfig,
    StatisticsConfig,
)
from amalgam.pipeline.steps.merging.task import TASK, TaskConfig
from amalgam.pipeline.steps.reports import MERGE_REPORT, ReportConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import SampleConfig, Shared
from amalgam.tasks.merging.methods.method import MergeMethod, TaskVectorMethod
from amalgam.tasks.merging.methods.registry import (
    TSVM,
    Average,
    Breadcrumbs,
    Dare,
    EpiMer,
    Fisher,
    GreedySoup,
    IsoC,
    IsoCTS,
    Karcher,
    KnOTS,
    ModelStock,
    RegMean,
    RegMeanPlusPlus,
    TaskArithmetic,
    Ties,
    Wudi,
)
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.training.config import TrainConfig

REFERENCES: tuple[Reference, ...] = ("base", "fine-tuned")
TEMPERATURES = (0.0, 1.0, 5.0, 20.0, 100.0)  # of functional similarity
OFF_DIAGONALS = (0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class MergingRecipe:
    """Everything an experiment on merging tasks may choose."""

    base: DataSpec
    tasks: tuple[TaskSpec, ...]
    model: ModelSpec
    pretraining: TrainConfig
    finetuning: TrainConfig
    seeds: int
    validation_share: float
    scales: tuple[float, ...]
    """Factors on merged task vectors that every method with one is tried at."""
    rank: int | None
    """Singular vectors of each task in TSV-M and EpiMer."""
    density: float
    """Share of entries that sparse methods keep."""
    estimators: tuple[Estimator, ...]
    """Of the Fisher information; the first one's is read by EpiMer too."""
    num_rows: int
    """Training images of each task that statistics are of, at most."""
    num_shards: int

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise ValueError(f"merging needs at least two tasks, got {len(self.tasks)}: give --tasks NAME,NAME")
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError(f"a task is named twice among {', '.join(task.name for task in self.tasks)}")
        for name in ("seeds", "num_rows", "num_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("scales", "estimators"):
            if not getattr(self, name):
                raise ValueError(f"give at least one of --{name}")


def merging_graph(recipe: MergingRecipe) -> Step:
    """The report of a recipe, and behind it all that it needs."""
    results = tuple(step for seed in range(recipe.seeds) for step in _of_seed(recipe, seed))
    title = f"Merging {len(recipe.tasks)} tasks fine-tuned from one {recipe.model.name} of {recipe.base.name}"
    return MERGE_REPORT(ReportConfig(title=title, settings=in_words({"": recipe})), results=results)


def base_step(data: DataSpec, model: ModelSpec, training: TrainConfig, validation_share: float, seed: int) -> Step:
    """The common start: a network trained on the base's data."""
    sample = SampleConfig(data=data, seed=seed, validation_share=validation_share)
    return MEMBER(
        MemberConfig(sample=sample, model=model, split=Shared(), training=training, num_members=1, member=0, seed=seed)
    )


def _of_seed(recipe: MergingRecipe, seed: int) -> Iterator[Step]:
    base = base_step(recipe.base, recipe.model, recipe.pretraining, recipe.validation_share, seed)
    share = recipe.validation_share
    members = tuple(
        TASK(TaskConfig(task=task, training=recipe.finetuning, validation_share=share, seed=seed), base=base)
        for task in recipe.tasks
    )
    common = {"tasks": recipe.tasks, "validation_share": share, "seed": seed}
    for reference in REFERENCES:
        config = MergedConfig(label=reference, reference=reference, **common)
        yield MERGED_TASKS(config, base=base, members=members)
    staged: dict[str, Step] = {one: _statistics(recipe, one, members, seed) for one in recipe.estimators}
    conflicts = ConflictsConfig(seed=seed, rank=recipe.rank)
    yield CONFLICTS(conflicts, base=base, members=members, statistics=staged[recipe.estimators[0]])
    alike = EMBEDDINGS(EmbeddingsConfig(seed=seed), members=members)
    personal = PersonalConfig(label="FunctionalSimilarity, a merge each", temperatures=TEMPERATURES, **common)
    yield PERSONAL(personal, base=base, members=members, statistics=alike)
    projected = ProjectedConfig(tasks=recipe.tasks, validation_share=share, seed=seed, rank=recipe.rank)
    staged["projected"] = PROJECTED(projected, base=base, members=members)
    for label, grid, estimator in rows(recipe):
        known = {} if estimator is None else {"statistics": staged[estimator]}
        yield MERGED_TASKS(MergedConfig(label=label, grid=grid, **common), base=base, members=members, **known)


def rows(recipe: MergingRecipe) -> Iterator[tuple[str, tuple[MergeMethod, ...], str | None]]:
    """The rows of the table: a label, the grid that is chosen from, and whose statistics it reads."""
    scales, rank, first = recipe.scales, recipe.rank, recipe.estimators[0]
    for label, grid in rows_without_statistics(scales, rank, recipe.density):
        yield label, grid, None
    for estimator in recipe.estimators:
        yield f"Fisher {estimator}", (Fisher(), Fisher(norm="l2"), Fisher(norm="mean")), estimator
    yield "RegMean", tuple(RegMean(off_diagonal=share) for share in OFF_DIAGONALS), first
    yield "RegMeanPlusPlus", tuple(RegMeanPlusPlus(off_diagonal=share) for share in OFF_DIAGONALS), None
    yield "EpiMer", _scaled(EpiMer, scales, rank=rank), first
    yield "EpiMer raw", _scaled(EpiMer, scales, rank=rank, normalize="none"), first
    yield "EpiMer projected", _scaled(EpiMer, scales, rank=rank, curvature="projected"), "projected"
    yield "EpiMer factored", _scaled(EpiMer, scales, rank=rank, curvature="factored"), first


def rows_without_statistics(
    scales: tuple[float, ...], rank: int | None, density: float
) -> Iterator[tuple[str, tuple[MergeMethod, ...]]]:
    """The rows of methods that read weights and validation scores alone: a label, and the grid that is chosen from."""
    yield "Average", (Average(),)
    yield "TaskArithmetic", _scaled(TaskArithmetic, scales)
    yield "Ties", _scaled(Ties, scales, density=density)
    yield "Dare", _scaled(Dare, scales, density=density)
    yield "Breadcrumbs", _scaled(Breadcrumbs, scales)
    yield "KnOTS", _scaled(KnOTS, scales, density=density)
    yield "TSVM", _scaled(TSVM, scales, rank=rank)
    yield "IsoC", _scaled(IsoC, scales)
    yield "IsoCTS", _scaled(IsoCTS, scales)
    yield "Wudi", _scaled(Wudi, scales)
    yield "ModelStock", (ModelStock(),)
    yield "Karcher", (Karcher(),)
    yield "GreedySoup", (GreedySoup(),)


def _scaled(kind: type[TaskVectorMethod], scales: tuple[float, ...], **settings: object) -> tuple[MergeMethod, ...]:
    return tuple(kind.model_validate({**settings, "scale": scale}) for scale in scales)


def _statistics(recipe: MergingRecipe, estimator: Estimator, members: tuple[Step, ...], seed: int) -> Step:
    shards = tuple(
        SHARD(
            ShardConfig(
                task=task,
                validation_share=recipe.validation_share,
                seed=seed,
                estimator=estimator,
                num_rows=recipe.num_rows,
                shard=shard,
                num_shards=recipe.num_shards,
            ),
            member=member,
        )
        for task, member in zip(recipe.tasks, members, strict=True)
        for shard in range(recipe.num_shards)
    )
    config = StatisticsConfig(num_shards=recipe.num_shards, estimator=estimator)
    return STATISTICS(config, members=members, shards=shards)
