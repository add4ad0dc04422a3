"""Train a classifier and keep its best epoch, resumably: a run cut short and resumed ends with the very same weights.

On a GPU this is so up to the order in which some kernels add. Everything random in epoch e is drawn from (seed, e)
alone, and the state saved after an epoch is all that the next one reads. The best epoch is chosen on held-out examples;
test images are never seen here.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Batch, Indices, num_batches, shuffled_batches
from amalgam.tasks.data.splits import require_classes
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.distributed import ALONE, ProcessGroup
from amalgam.tasks.training.epochs import Diverged, Log, Save, State, run_epochs, silent
from amalgam.tasks.training.objective import Objective
from amalgam.tasks.training.optimizers import Masks
from amalgam.tasks.training.seeding import seeded
from amalgam.tasks.training.step import Stepper, Watch, augmentation

Measure = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    module: nn.Module
    """The network with the weights of its best epoch, on the device it was trained on."""
    best_epoch: int
    """The epoch, counted from 1, of highest validation accuracy; of equals, that of lower validation NLL."""
    epochs_trained: int
    """Epochs run in all, those before a resumption included."""


def train(
    module: nn.Module,
    images: Images,
    indices: Indices,
    validation_indices: Indices,
    config: TrainConfig,
    seed: int,
    *,
    log: Log,
    support: Mapping[str, Tensor] | None = None,
    masks: Masks | None = None,
    objective: Objective | None = None,
    measure: Measure | None = None,
    resume: State | None = None,
    save: Save | None = None,
    device: torch.device | str = "cpu",
    processes: ProcessGroup = ALONE,
    compiler: str | None = None,
) -> Trained:
    """Train a copy of `module` on the images at `indices`, choosing the epoch on those at `validation_indices`.

    `log`, `resume` and `save` are those of `tasks.training.epochs.run_epochs`. Entries of a parameter that are False in
    `support` must be 0 and stay exactly 0; those that are False in `masks` stay as they are, whatever the optimiser
    decays or remembers. `objective` is what steps lower: the cross-entropy where None. `measure` gives what else to
    log of the network after every epoch, and must not change it.

    Of several processes each calls this with the same arguments and its own `processes` and device; all are given the
    network, the first one logs and saves. `compiler` is a backend of torch.compile, such as "inductor", which pays in
    long runs. Raises ValueError for an empty or single-class split, a batch that cannot be divided as configured, and
    as soon as a loss is not finite: what was saved before is sound.
    """
    task = _Task(
        images,
        torch.as_tensor(indices, dtype=torch.long),
        torch.as_tensor(validation_indices, dtype=torch.long),
        config,
        seed,
        torch.device(device),
        processes,
    )
    how = objective or Objective(config.label_smoothing)
    task.check(how)
    run = _Run.start(copy.deepcopy(module), task, support or {}, masks, how)
    run.measure = measure
    if compiler is not None:
        run.compile(compiler)
    leads = processes.rank == 0
    run_epochs(run, log=log if leads else silent, resume=resume, save=save if leads else None)
    return run.trained()


@dataclass(frozen=True)
class _Task:
    """What is trained on, and how."""

    images: Images
    indices: Tensor
    validation_indices: Tensor
    config: TrainConfig
    seed: int
    device: torch.device
    processes: ProcessGroup

    def check(self, how: Objective) -> None:
        """Raise ValueError for splits that nothing can be learnt from or judged on, and batches that do not divide."""
        if not how.is_mean_over_images and (self.config.accumulate > 1 or self.processes.size > 1):
            raise ValueError(
                f"this loss needs all images of a batch at once: accumulate must be 1 and the number of processes 1, "
                f"got {self.config.accumulate} and {self.processes.size}"
            )
        require_classes(self.images.labels[self.indices].numpy(), "the training split")
        if len(self.validation_indices) == 0:
            raise ValueError("the validation split is empty: set aside examples to choose the epoch by")
        self.processes.check(self.config.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.indices), self.config.batch_size)

    def batch_count(self, step: int) -> int:
        """Images of the batch of a step of an epoch, counted from 0, in all processes."""
        return min(self.config.batch_size, len(self.indices) - step * self.config.batch_size)


@dataclass
class _Run:
    """A training run after `len(history)` epochs."""

    task: _Task
    stepper: Stepper
    best: dict[str, Tensor]
    """The state dict of the best epoch."""
    history: list[dict[str, float]] = field(default_factory=list)
    measure: Measure | None = None

    @classmethod
    def start(
        cls, module: nn.Module, task: _Task, support: Mapping[str, Tensor], masks: Masks | None, objective: Objective
    ) -> "_Run":
        # Convolutions are faster with channels last, most so in half precision; other layers do not notice.
        module.to(task.device).to(memory_format=torch.channels_last)
        stepper = Stepper.of(module, support, objective, task.config, task.processes, task.device, masks)
        return cls(task, stepper, best={})

    @property
    def module(self) -> nn.Module:
        return self.stepper.module

    @property
    def is_finished(self) -> bool:
        return len(self.history) == self.task.config.epochs

    def compile(self, backend: str) -> None:
        """Compile the network, and its parts for an objective that calls them one by one, when first called."""
        for part in (self.module, *self.module.children()):
            part.compile(backend=backend)

    def state(self) -> State:
        """All that the next epoch reads."""
        return self.stepper.state() | {"best": self.best, "history": self.history}

    def restore(self, state: State) -> None:
        """Take the place of the run that gave `state`."""
        self.stepper.restore(state)
        self.best, self.history = dict(state["best"]), list(state["history"])

    def advance(self) -> None:
        """One epoch of training and its validation."""
        epoch = len(self.history) + 1
        with seeded(self.task.seed, epoch, self.task.device, self.task.processes.rank) as generator:
            metrics = self._train_epoch(epoch, generator)
        self.task.processes.mean_statistics(self.module)
        metrics |= self.stepper.objective.metrics() | self._validate(epoch)
        metrics |= self.measure(self.module) if self.measure else {}
        self.history.append(metrics)
        if self.best_epoch == epoch:
            self.best = copy.deepcopy(self.module.state_dict())

    @property
    def best_epoch(self) -> int:
        ranks = [(-m[f"validation/{self.task.config.choose_by}"], m["validation/nll"]) for m in self.history]
        return 1 + ranks.index(min(ranks))

    def trained(self) -> Trained:
        """The network with the weights of its best epoch."""
        self.module.load_state_dict(self.best)
        self.module.to(memory_format=torch.contiguous_format)
        return Trained(copy.deepcopy(self.module).eval(), self.best_epoch, len(self.history))  # a copy is not compiled

    def _train_epoch(self, epoch: int, generator: torch.Generator) -> dict[str, float]:
        task, config, watch = self.task, self.task.config, Watch()
        self.module.train()
        totals, seen = torch.zeros(2, device=task.device), 0
        for step, batch in enumerate(self._batches(epoch, generator)):
            count, place = task.batch_count(step), (epoch - 1) * task.steps_per_epoch + step
            means = self.stepper(batch, count, epoch, config.learning_rate_at(place, task.steps_per_epoch))
            watch(means[0], epoch, step + 1, batch.ids)
            totals += means * count
            seen += count
        watch.look()
        loss, accuracy = (totals / seen).tolist()
        rate = self.stepper.optimizer.param_groups[0]["lr"]
        return {"train/loss": loss, "train/accuracy": accuracy, "train/learning_rate": rate}

    def _batches(self, epoch: int, generator: torch.Generator) -> Iterator[Batch]:
        task = self.task
        return shuffled_batches(
            task.images,
            task.indices,
            task.config.batch_size,
            generator=generator,
            augment=augmentation(task.config, epoch),
            device=task.device,
            part=task.processes.part,
        )

    def _validate(self, epoch: int) -> dict[str, float]:
        task, count = self.task, len(self.task.validation_indices)
        indices = task.validation_indices[task.processes.part(count)]
        with self.stepper.autocast():
            logits = predict(self.module, task.images, indices, device=task.device)
        labels = task.images.labels[indices]
        hits = (logits.argmax(1) == labels).double().mean()
        means = torch.stack([hits, cross_entropy(logits, labels).double()]) * task.processes.weight(count)
        accuracy, nll = task.processes.sum(means.to(task.device)).tolist()
        if not math.isfinite(nll):
            raise Diverged(f"the validation loss is {nll} after epoch {epoch}: lower learning_rate or set clip_norm")
        found = {"validation/accuracy": accuracy, "validation/nll": nll}
        if task.config.choose_by == "macro_f1":
            found["validation/macro_f1"] = self._macro_f1(labels, logits.argmax(1), logits.shape[1])
        return found

    def _macro_f1(self, labels: Tensor, predicted: Tensor, size: int) -> float:
        """See `scoring.metrics.macro_f1`, of what all processes predict."""
        parts = (labels[labels == predicted], labels, predicted)
        counts = torch.stack([torch.bincount(of, minlength=size) for of in parts])
        right, occur, said = self.task.processes.sum(counts.double().to(self.task.device))
        return (2 * right / (occur + said).clamp(min=1))[occur > 0].mean().item()
