"""Merging of tasks: one base, fine-tuned on each of several tasks, and every merge method beside the others.

    amalgam run multi_task_merging
    amalgam run multi_task_merging --data-root DATA --base cifar10 --model resnet18 --tasks cifar10,mnist,npz:A.npz

Encoders are merged; every task keeps a head that was fitted on the base's features and fixed. Every method with a scale
tries the same scales on validation images; the table shows test accuracy, on average and on the worst task, over seeds.
"""

from dataclasses import dataclass
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, Ints, Texts, flat
from amalgam.pipeline.experiments.fusion.choices import model_spec
from amalgam.pipeline.experiments.merging.graph import MergingRecipe, merging_graph
from amalgam.pipeline.steps.merging.statistics import Estimator
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.training.config import TrainConfig

Estimators = tuple[Estimator, ...]
TASKS = (
    "digits",
    "digits+turn1",
    "digits+turn2",
    "digits+mirrored",
    "digits+inverted",
    "digits+turn3+inverted",
)


@dataclass(frozen=True)
class Base:
    """The common start: a network, and the data set that it is trained on."""

    base: Annotated[str, "Data set that the common start is trained on."] = "digits"
    num_classes: Annotated[int | None, "Number of classes of a user-supplied base data set."] = None
    image_size: Annotated[int | None, "Side of all images, in pixels; default: the base's own."] = None
    channels: Annotated[int, "Channels of a user-supplied base data set."] = 3
    model: Annotated[str, "Network: mlp, vgg11, resnet18, vim2_tiny, timm:NAME or torchvision:NAME."] = "mlp"
    width: Annotated[float | None, "Multiplier of the channels of vgg11 and resnet18."] = None
    widths: Annotated[Ints, "Units of each hidden layer of an mlp; default: 128 twice."] = ()
    base_epochs: Annotated[int, "Passes over the base's training images."] = 30

    @property
    def data(self) -> DataSpec:
        """The data set."""
        return DataSpec(name=self.base, image_size=self.image_size)

    @property
    def spec(self) -> ModelSpec:
        """The network."""
        widths = self.widths or ((128, 128) if self.model == "mlp" else None)
        options = {name: value for name, value in (("width", self.width), ("widths", widths)) if value is not None}
        return model_spec(self.model, self.data, self.num_classes, self.channels, options)


@dataclass(frozen=True)
class Tried:
    """What merge methods are tried with, and the statistics that some of them read."""

    scales: Annotated[Floats, "Grid of scales of the merged task vector."] = (
        *(step / 10 for step in range(1, 11)), 1.2, 1.5, 2.0,
    )  # fmt: skip
    rank: Annotated[int | None, "Singular vectors of each task in TSV-M and EpiMer; default: as many as fit."] = None
    density: Annotated[float, "Fraction of entries that sparse methods keep."] = 0.2
    estimators: Annotated[Estimators, "Estimators of Fisher information: exact, sampled, empirical, batch."] = (
        "exact",
        "batch",
    )
    rows: Annotated[int, "Training images of each task for statistics."] = 512
    shards: Annotated[int, "Shards in which statistics are computed."] = 2


@dataclass(frozen=True)
class TaskTraining:
    """How often, and how, the base is trained and fine-tuned."""

    seeds: Annotated[int, "Repetitions, each with its own base."] = 3
    batch_size: Annotated[int, "Images per step."] = 64
    learning_rate: Annotated[float, "Peak learning rate of the base (Adam)."] = 1e-3
    finetune_learning_rate: Annotated[float, "Peak learning rate on the task."] = 1e-3
    validation_share: Annotated[float, "Fraction of training images held out to choose epochs and merges."] = 0.2

    def configs(self, base_epochs: int, epochs: int) -> tuple[TrainConfig, TrainConfig]:
        """The training of the base, and that on a task."""
        base = TrainConfig(epochs=base_epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        return base, base.model_copy(update={"epochs": epochs, "learning_rate": self.finetune_learning_rate})


@flat
def multi_task_merging(
    *,
    start: Base = Base(),
    tasks: Annotated[Texts, "Data sets, each optionally transformed: digits+turn1+mirrored+inverted."] = TASKS,
    epochs: Annotated[int, "Passes over each task's training images; the best by validation is kept."] = 30,
    tuning: TaskTraining = TaskTraining(),
    tried: Tried = Tried(),
) -> Step:
    """Fine-tune one base on several tasks and merge them by every method: accuracy on average and on the worst task."""
    pretraining, finetuning = tuning.configs(start.base_epochs, epochs)
    return merging_graph(
        MergingRecipe(
            base=start.data,
            tasks=tuple(map(TaskSpec.parse, tasks)),
            model=start.spec,
            pretraining=pretraining,
            finetuning=finetuning,
            seeds=tuning.seeds,
            validation_share=tuning.validation_share,
            scales=tried.scales,
            rank=tried.rank,
            density=tried.density,
            estimators=tried.estimators,
            num_rows=tried.rows,
            num_shards=tried.shards,
        )
    )
