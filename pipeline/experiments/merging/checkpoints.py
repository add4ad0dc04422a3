"""Merging the checkpoints of one run: metrics-weighted averaging beside the last, the best, the mean and the EMA.

    amalgam run checkpoint_merging

A base is fine-tuned on a task twice, all weights and LoRA adapters alone, and every epoch's weights are kept. The last
of them are merged; penalties and decays are chosen on validation images, and each choice is tested once.
"""

from collections.abc import Iterator
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, flat
from amalgam.pipeline.experiments.merging.graph import base_step
from amalgam.pipeline.experiments.merging.multi_task import Base, TaskTraining
from amalgam.pipeline.steps.merging.checkpoints import CHECKPOINTS, HISTORY_RUN, CheckpointsConfig, HistoryConfig
from amalgam.pipeline.steps.reports import MERGE_REPORT, ReportConfig
from amalgam.tasks.merging.multitask.spec import TaskSpec


@flat
def checkpoint_merging(
    *,
    start: Base = Base(),
    task: Annotated[str, "Data set of the run, optionally transformed: digits+turn1+inverted."] = "digits+inverted",
    epochs: Annotated[int, "Passes of the run over the task's images, each of which leaves a checkpoint."] = 20,
    last: Annotated[int, "Checkpoints that are merged: the last ones."] = 8,
    tuning: TaskTraining = TaskTraining(finetune_learning_rate=3e-3),
    penalties: Annotated[Floats, "Penalties of metrics-weighted averaging."] = (0.5, 1.0, 2.0, 4.0, 8.0),
    decays: Annotated[Floats, "Decays of the exponential moving average, per checkpoint."] = (0.5, 0.7, 0.9),
    lora_rank: Annotated[int, "Rank of the adapters."] = 4,
    lora_alpha: Annotated[float, "LoRA scaling: products are multiplied by alpha / rank."] = 8.0,
) -> Step:
    """Fine-tune a base, keep every epoch's weights, and merge the last ones by metrics, mean and moving average."""
    if tuning.seeds < 1 or last < 2 or last > epochs:
        got = f"got {tuning.seeds} and {last}"
        raise ValueError(f"give at least one seed, and 2 to {epochs} checkpoints to merge; {got}")
    pretraining, training = tuning.configs(start.base_epochs, epochs)

    def of_seed(seed: int) -> Iterator[Step]:
        base = base_step(start.data, start.spec, pretraining, tuning.validation_share, seed)
        for rank in (None, lora_rank):
            run = HistoryConfig(
                task=TaskSpec.parse(task),
                training=training,
                validation_share=tuning.validation_share,
                seed=seed,
                lora_rank=rank,
                lora_alpha=lora_alpha,
            )
            config = CheckpointsConfig(run=run, last=last, penalties=penalties, decays=decays)
            yield CHECKPOINTS(config, run=HISTORY_RUN(run, base=base))

    settings = {"base": str(start), "task": task, "training": str(training), "checkpoints": str(last)}
    report = ReportConfig(title=f"Merging the last {last} checkpoints of a run on {task}", settings=settings)
    return MERGE_REPORT(report, results=tuple(step for seed in range(tuning.seeds) for step in of_seed(seed)))
