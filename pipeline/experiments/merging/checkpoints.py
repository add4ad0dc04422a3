"""Merging the checkpoints of one run: metrics-weighted averaging beside the last, the best, the mean and the EMA.

    amalgam run checkpoint_merging

A base is fine-tuned on a task twice, all weights and LoRA adapters alone, and every epoch's weights are kept. The last
of them are merged; penalties and decays are chosen on validation images, and each choice is tested once.
"""

from collections.abc import Iterator
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, Ints
from amalgam.pipeline.experiments.merging.graph import base_step
from amalgam.pipeline.experiments.merging.multi_task import base_model
from amalgam.pipeline.steps.merging.checkpoints import CHECKPOINTS, HISTORY_RUN, CheckpointsConfig, HistoryConfig
from amalgam.pipeline.steps.reports import MERGE_REPORT, ReportConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.training.config import TrainConfig


def checkpoint_merging(
    *,
    base: Annotated[str, "Data set that the common start is trained on."] = "digits",
    num_classes: Annotated[int | None, "Number of classes of a user-supplied base data set."] = None,
    image_size: Annotated[int | None, "Side of all pictures, in pixels; default: the base's own."] = None,
    channels: Annotated[int, "Channels of a user-supplied base data set."] = 3,
    task: Annotated[str, "Data set of the run, optionally transformed: digits+turn1+inverted."] = "digits+inverted",
    model: Annotated[str, "Network: mlp, vgg11, resnet18, timm:NAME or torchvision:NAME."] = "mlp",
    widths: Annotated[Ints, "Units of each hidden layer of an mlp; default: 128 twice."] = (),
    seeds: Annotated[int, "Repetitions, each with its own base and run."] = 3,
    base_epochs: Annotated[int, "Passes over the base's training images."] = 30,
    epochs: Annotated[int, "Passes of the run over the task's images, each of which leaves a checkpoint."] = 20,
    last: Annotated[int, "Checkpoints that are merged: the last ones."] = 8,
    batch_size: Annotated[int, "Images per step."] = 64,
    learning_rate: Annotated[float, "Peak learning rate of the base (Adam)."] = 1e-3,
    finetune_learning_rate: Annotated[float, "Peak learning rate of the run."] = 3e-3,
    validation_share: Annotated[float, "Fraction of training images held out for model selection."] = 0.2,
    penalties: Annotated[Floats, "Penalties of metrics-weighted averaging."] = (0.5, 1.0, 2.0, 4.0, 8.0),
    decays: Annotated[Floats, "Decays of the exponential moving average, per checkpoint."] = (0.5, 0.7, 0.9),
    lora_rank: Annotated[int, "Rank of the adapters."] = 4,
    lora_alpha: Annotated[float, "LoRA scaling: products are multiplied by alpha / rank."] = 8.0,
) -> Step:
    """Fine-tune a base, keep every epoch's weights, and merge the last ones by metrics, mean and moving average."""
    if seeds < 1 or last < 2 or last > epochs:
        raise ValueError(f"give at least one seed, and 2 to {epochs} checkpoints to merge; got {seeds} and {last}")
    data = DataSpec(name=base, image_size=image_size)
    spec = base_model(model, data, num_classes, channels, {"widths": widths or (128, 128)} if model == "mlp" else {})
    training = TrainConfig(epochs=base_epochs, batch_size=batch_size, learning_rate=learning_rate)
    tuning = training.model_copy(update={"epochs": epochs, "learning_rate": finetune_learning_rate})

    def of_seed(seed: int) -> Iterator[Step]:
        start = base_step(data, spec, training, validation_share, seed)
        for rank in (None, lora_rank):
            run = HistoryConfig(
                task=TaskSpec.parse(task),
                training=tuning,
                validation_share=validation_share,
                seed=seed,
                lora_rank=rank,
                lora_alpha=lora_alpha,
            )
            config = CheckpointsConfig(run=run, last=last, penalties=penalties, decays=decays)
            yield CHECKPOINTS(config, run=HISTORY_RUN(run, base=start))

    settings = {"base": base, "task": task, "model": str(spec), "training": str(tuning), "checkpoints": str(last)}
    report = ReportConfig(title=f"Merging the last {last} checkpoints of a run on {task}", settings=settings)
    return MERGE_REPORT(report, results=tuple(step for seed in range(seeds) for step in of_seed(seed)))
