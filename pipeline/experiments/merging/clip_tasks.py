"""Merging of CLIPs: one image tower, fine-tuned on each of several tasks behind fixed zero-shot heads, then merged.

    amalgam plan clip_multi_task_merging --data-root DATA        # what is missing, what it would cost
    amalgam run clip_multi_task_merging --architecture ViT-B-16 --data-root DATA
    amalgam run clip_multi_task_merging --tasks svhn,mnist,imagefolder:pictures --data-root DATA

Only methods that read weights and validation scores take part: no Fisher information, no Grams.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.backbone import Backbone
from amalgam.pipeline.experiments.clip.finetune import FORWARD_TFLOP, STEP
from amalgam.pipeline.experiments.flags import Floats, Precision, Texts, flat, in_words
from amalgam.pipeline.experiments.merging.graph import REFERENCES, rows_without_statistics
from amalgam.pipeline.experiments.merging.multi_task import Tried
from amalgam.pipeline.steps.clip.backbones import OPENED, check_weights
from amalgam.pipeline.steps.clip.tuning import TUNED, TunedConfig
from amalgam.pipeline.steps.merging.clip_tasks import (
    MERGED_CLIPS,
    TASK_HEAD,
    ClipMergedConfig,
    TaskHeadConfig,
    check_some_weights,
)
from amalgam.pipeline.steps.reports import MERGE_REPORT, ReportConfig
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.testing.eight_tasks import EIGHT_TASKS, OTHER, ClipTask
from amalgam.tasks.clip.testing.suite import PictureSettings
from amalgam.tasks.data.sources import LabelledConfig
from amalgam.tasks.training.config import TrainConfig

TOWER_BYTES = {"ViT-B-32": 352_000_000, "ViT-B-16": 345_000_000, "ViT-L-14": 1_217_000_000}  # four a parameter
MERGE_SECONDS = 9.0  # one merge, each task, on one core: mean over methods of a 768 x 3072 matrix, times 37
OTHER_TOWER = "ViT-B-16"  # whose price any other architecture is given


@dataclass(frozen=True)
class TaskTuning:
    """How the image tower is fine-tuned on every task."""

    seeds: Annotated[int, "Repetitions, each with its own order and held-out images."] = 3
    task_epochs: Annotated[
        int | None, "Passes over each task's images; default: the literature's, 2,000 steps of 128."
    ] = None
    batch_size: Annotated[int, "Images per step, over all processes."] = 128
    learning_rate: Annotated[float, "Peak learning rate."] = 1e-5
    weight_decay: Annotated[float, "Weight decay, as in torch.optim."] = 0.1
    warmup_steps: Annotated[int, "Steps in which the learning rate rises."] = 200
    precision: Precision = "bf16"
    validation_share: Annotated[float, "Fraction of training images held out to choose epochs and merges."] = 0.1

    def epochs_of(self, task: str) -> int:
        """Passes over the images of a task."""
        return EIGHT_TASKS.get(task, OTHER).epochs if self.task_epochs is None else self.task_epochs

    def config(self, task: str) -> FinetuneConfig:
        """The training on a task: everything but the head learns."""
        training = TrainConfig(
            epochs=self.epochs_of(task),
            batch_size=self.batch_size,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule="cosine",
            warmup_steps=self.warmup_steps,
            precision=self.precision,
            clip_norm=1.0,
        )
        return FinetuneConfig(train=training, trained="encoder")


@dataclass(frozen=True)
class Grid:
    """What merge methods are tried with."""

    scales: Annotated[Floats, "Grid of scales of the merged task vector."] = Tried().scales
    rank: Annotated[int | None, "Singular vectors of each task in TSV-M; default: as many as fit."] = None
    density: Annotated[float, "Fraction of entries that sparse methods keep."] = 0.2


@flat
def clip_multi_task_merging(
    *,
    tasks: Annotated[Texts, f"Tasks: {', '.join(EIGHT_TASKS)}, or data sets by name."] = tuple(EIGHT_TASKS),
    backbone: Backbone = Backbone(architecture="ViT-B-32"),
    tuning: TaskTuning = TaskTuning(),
    grid: Grid = Grid(),
    assumed_tflops: Annotated[float, "Assumed speed of a worker in TFLOP/s, for the estimate of `plan`."] = 60.0,
) -> Step:
    """Fine-tune a CLIP on several tasks behind zero-shot heads and merge the image towers by every data-free method."""
    settings = in_words(locals())
    _check(tasks, tuning, grid)
    pictures = PictureSettings.of(backbone.preprocessing)
    named = tuple(ClipTask.named(task, pictures) for task in tasks)
    of = _Priced(backbone, tasks, tuning, grid, assumed_tflops)
    opened = replace(OPENED, check=check_some_weights, slow_check=check_weights)(backbone.opened)
    head = TASK_HEAD.expecting(10, of.tower_bytes)
    heads = tuple(head(TaskHeadConfig(task=task), backbone=opened) for task in named)
    results = tuple(row for seed in range(tuning.seeds) for row in _of_seed(named, heads, tuning, grid, of, seed))
    title = f"Merging {len(tasks)} tasks fine-tuned from one {backbone.architecture}"
    return MERGE_REPORT(ReportConfig(title=title, settings=settings | backbone.derived), results=results)


def _check(tasks: Texts, tuning: TaskTuning, grid: Grid) -> None:
    if len(set(tasks)) < max(2, len(tasks)):
        raise ValueError(f"merging needs two or more different tasks, got {', '.join(tasks)}: give --tasks NAME,NAME")
    if tuning.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {tuning.seeds}")
    if not grid.scales:
        raise ValueError("give at least one of --scales")


def _of_seed(
    tasks: tuple[ClipTask, ...],
    heads: tuple[Step, ...],
    tuning: TaskTuning,
    grid: Grid,
    of: "_Priced",
    seed: int,
) -> Iterator[Step]:
    tuned = TUNED.expecting(of.tuning_seconds, of.tower_bytes)
    merged = MERGED_CLIPS.expecting(of.merging_seconds, of.tower_bytes)
    share = tuning.validation_share
    members = tuple(
        tuned(
            TunedConfig(
                labelled=LabelledConfig(source=task.train, validation_share=share, seed=seed),
                finetuning=tuning.config(task.name),
                seed=seed,
            ),
            classifier=head,
        )
        for task, head in zip(tasks, heads, strict=True)
    )
    common = {"tasks": tasks, "validation_share": share, "seed": seed}
    for reference in REFERENCES:
        config = ClipMergedConfig(label=reference, reference=reference, **common)
        yield merged(config, base=heads[0], members=members)
    for label, methods in rows_without_statistics(grid.scales, grid.rank, grid.density):
        yield merged(ClipMergedConfig(label=label, grid=methods, **common), base=heads[0], members=members)


@dataclass(frozen=True)
class _Priced:
    """What a step costs, from arithmetic on images alone, averaged over the tasks and rows of the experiment."""

    backbone: Backbone
    tasks: Texts
    tuning: TaskTuning
    grid: Grid
    tflops: float

    @property
    def tower_bytes(self) -> int:
        return TOWER_BYTES.get(self.backbone.architecture, TOWER_BYTES[OTHER_TOWER])

    @property
    def tuning_seconds(self) -> float:
        """Of one task."""
        images = [EIGHT_TASKS.get(task, OTHER).num_train * self.tuning.epochs_of(task) for task in self.tasks]
        return STEP * self._seconds(sum(images)) / len(self.tasks)

    @property
    def merging_seconds(self) -> float:
        """Of one row: every merge of its grid is made and validated, and one is tested."""
        known = [EIGHT_TASKS.get(task, OTHER) for task in self.tasks]
        rows = list(rows_without_statistics(self.grid.scales, self.grid.rank, self.grid.density))
        tried = sum(len(methods) for _, methods in rows) / len(rows)
        validated = tried * self.tuning.validation_share * sum(task.num_train for task in known)
        return self._seconds(validated + sum(task.num_test for task in known)) + tried * self._merge_seconds

    @property
    def _merge_seconds(self) -> float:
        return MERGE_SECONDS * len(self.tasks) * self.tower_bytes / TOWER_BYTES[OTHER_TOWER]

    def _seconds(self, images: float) -> float:
        forward = FORWARD_TFLOP.get(self.backbone.architecture, FORWARD_TFLOP[OTHER_TOWER])
        return images * forward * (self.backbone.preprocessing.size[0] / 224) ** 2 / self.tflops
