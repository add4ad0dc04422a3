"""Train a classifier and keep its best epoch, resumably: a run cut short and resumed ends with the very same weights.

Everything random in epoch e is drawn from (seed, e) alone, and the state saved after an epoch is all that the next one
reads. The best epoch is chosen on held-out examples; test images are never seen here.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from tasks.data.images import Images
from tasks.data.loading import Batch, Indices, num_batches, shuffled_batches
from tasks.data.splits import require_classes
from tasks.evaluate import predict
from tasks.optimizers import optimizer
from tasks.seeding import seeded
from tasks.train_config import TrainConfig

Log = Callable[[dict[str, float], int], None]
State = dict[str, Any]
Objective = Callable[[nn.Module, Batch, int], tuple[Tensor, Tensor]]
"""The network, a batch and the epoch, from 1, to the batch's logits and a penalty beside their cross-entropy."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    objective: Objective | None = None,
    resume: State | None = None,
    save: Callable[[State], None] | None = None,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train a copy of `module` on the images at `indices`, choosing the epoch on those at `validation_indices`.

    `log(metrics, epoch)` is called after each epoch, then `save(state)`: a state is tensors and plain values, loadable
    by torch.load(weights_only=True). With `resume=state` training goes on after the epoch of that state, and the
    epochs before it are logged again, so that a record is whole. Entries of a parameter that are False in `support`
    must be 0 and stay exactly 0. `objective` computes the logits of training batches and a penalty that is added to
    the loss; without it nothing is added. Raises ValueError for an empty or single-class split, and for a loss that is
    not finite.
    """
    task = _Task(
        images,
        torch.as_tensor(indices, dtype=torch.long),
        torch.as_tensor(validation_indices, dtype=torch.long),
        config,
        seed,
        torch.device(device),
        objective,
    )
    task.check()
    run = _Run.start(copy.deepcopy(module), task, support or {})
    if resume is not None:
        run.restore(resume)
    for epoch, metrics in enumerate(run.history, start=1):
        log(metrics, epoch)
    while len(run.history) < config.epochs:
        run.advance()
        log(run.history[-1], len(run.history))
        if save is not None:
            save(copy.deepcopy(run.state()))
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
    objective: Objective | None

    def check(self) -> None:
        """Raise ValueError for splits that nothing can be learnt from or judged on."""
        require_classes(self.images.labels[self.indices].numpy(), "the training split")
        if len(self.validation_indices) == 0:
            raise ValueError("the validation split is empty: hold out some examples to choose the epoch on")

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.indices), self.config.batch_size)

    def autocast(self) -> torch.autocast:
        """The number format of forward passes."""
        precision = self.config.precision
        return torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")


@dataclass
class _Run:
    """A training run after `len(history)` epochs."""

    task: _Task
    module: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    forbidden: list[tuple[nn.Parameter, Tensor]]
    """Parameters with structural zeros, and where those are."""
    best: dict[str, Tensor]
    """The state dict of the best epoch."""
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, module: nn.Module, task: _Task, support: Mapping[str, Tensor]) -> "_Run":
        # Convolutions are faster with channels last, most so in half precision; other layers do not notice.
        module.to(task.device).to(memory_format=torch.channels_last)
        parameters = dict(module.named_parameters())
        forbidden = [(parameters[name], ~allowed.to(task.device)) for name, allowed in support.items()]
        assert not any(parameter[zeros].any() for parameter, zeros in forbidden), "a structural zero is not 0"
        scaler = torch.amp.GradScaler(task.device.type, enabled=task.config.precision == "fp16")
        return cls(task, module, optimizer(module, task.config), scaler, forbidden, best={})

    def state(self) -> State:
        """All that the next epoch reads."""
        names = ("module", "optimizer", "scaler")
        parts = {name: getattr(self, name).state_dict() for name in names}
        return parts | {"best": self.best, "history": self.history}

    def restore(self, state: State) -> None:
        """Take the place of the run that gave `state`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best, self.history = dict(state["best"]), list(state["history"])

    def advance(self) -> None:
        """One epoch of training and its validation."""
        epoch = len(self.history) + 1
        with seeded(self.task.seed, epoch, self.task.device) as generator:
            metrics = self._train_epoch(epoch, generator)
        metrics |= self._validate()
        self.history.append(metrics)
        if self.best_epoch == epoch:
            self.best = copy.deepcopy(self.module.state_dict())

    @property
    def best_epoch(self) -> int:
        ranks = [(-m["validation/accuracy"], m["validation/nll"]) for m in self.history]
        return 1 + ranks.index(min(ranks))

    def trained(self) -> Trained:
        """The network with the weights of its best epoch."""
        self.module.load_state_dict(self.best)
        self.module.to(memory_format=torch.contiguous_format)
        return Trained(self.module.eval(), self.best_epoch, len(self.history))

    def _train_epoch(self, epoch: int, generator: torch.Generator) -> dict[str, float]:
        task, config = self.task, self.task.config
        self.module.train()
        losses, hits, seen = [], torch.zeros((), device=task.device), 0
        first = (epoch - 1) * task.steps_per_epoch
        batches = shuffled_batches(
            task.images, task.indices, config.batch_size,
            generator=generator, augment=config.augment, device=task.device,
        )  # fmt: skip
        for step, batch in enumerate(batches, start=first):
            logits, loss = self._step(batch, epoch, config.learning_rate_at(step, task.steps_per_epoch))
            losses.append(loss * len(batch.labels))
            hits += (logits.argmax(1) == batch.labels).sum()
            seen += len(batch.labels)
        _require_finite(torch.stack(losses), epoch)
        return {
            "train/loss": (torch.stack(losses).sum() / seen).item(),
            "train/accuracy": (hits / seen).item(),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _step(self, batch: Batch, epoch: int, learning_rate: float) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; gives the logits and the mean loss, detached."""
        config = self.task.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        with self.task.autocast():
            logits, loss = self._loss(batch, epoch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        for parameter, zeros in self.forbidden:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(zeros, 0)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return logits.detach(), loss.detach()

    def _loss(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The logits of a batch, and their cross-entropy with whatever the objective adds."""
        objective, smoothing = self.task.objective, self.task.config.label_smoothing
        if objective is None:
            logits = self.module(batch.images)
            return logits, cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        logits, penalty = objective(self.module, batch, epoch)
        return logits, cross_entropy(logits, batch.labels, label_smoothing=smoothing) + penalty

    def _validate(self) -> dict[str, float]:
        task = self.task
        with task.autocast():
            logits = predict(self.module, task.images, task.validation_indices, device=task.device)
        labels = task.images.labels[task.validation_indices]
        return {
            "validation/accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "validation/nll": cross_entropy(logits, labels).item(),
        }


def _require_finite(losses: Tensor, epoch: int) -> None:
    finite = losses.isfinite()
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise ValueError(
            f"the loss is {losses[step - 1].item()} at epoch {epoch}, step {step}: lower learning_rate or set clip_norm"
        )
