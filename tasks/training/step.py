"""One step of training: a batch's gradient, in parts and by several processes, and the optimiser's move."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amalgam.tasks.data.loading import Augmentation, Batch
from amalgam.tasks.data.views import View
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.distributed import ProcessGroup
from amalgam.tasks.training.epochs import Diverged
from amalgam.tasks.training.memory import Division, is_out_of_memory
from amalgam.tasks.training.objective import Objective
from amalgam.tasks.training.optimizers import Masks, optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMED = 5  # images of a bad batch that a message names


@dataclass(frozen=True)
class Stepper:
    """A network and what moves its parameters."""

    module: nn.Module
    objective: Objective
    config: TrainConfig
    processes: ProcessGroup
    device: torch.device
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    forbidden: list[tuple[nn.Parameter, Tensor]]
    """Parameters with entries that get no gradient, structural zeros and those that are masked, and where these are."""
    division: Division

    @classmethod
    def of(
        cls,
        module: nn.Module,
        support: Mapping[str, Tensor],
        objective: Objective,
        config: TrainConfig,
        processes: ProcessGroup,
        device: torch.device,
        masks: Masks | None = None,
    ) -> "Stepper":
        """For a network on `device`, of which entries that are False in `support` stay 0, in `masks` as they are."""
        parameters = dict(module.named_parameters())
        forbidden = [(parameters[name], ~allowed.to(device)) for name, allowed in support.items()]
        assert not any(parameter[zeros].any() for parameter, zeros in forbidden), "a structural zero is not 0"
        forbidden += [
            (parameters[name], ~mask.to(device)) for name, mask in (masks or {}).items() if name in parameters
        ]
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        return cls(
            module,
            objective,
            config,
            processes,
            device,
            optimizer(module, config, masks),
            scaler,
            forbidden,
            Division(config.accumulate),
        )

    def state(self) -> dict[str, Any]:
        """All that the next step reads."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "objective": self.objective.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the place of the stepper that gave `state`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.objective.restore(state["objective"])

    def autocast(self) -> torch.autocast:
        """The number format of forward passes."""
        precision = self.config.precision
        return torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")

    def __call__(self, batch: Batch, count: int, epoch: int, learning_rate: float) -> Tensor:
        """One step on this process's part of a batch of `count` images; gives the batch's mean loss and accuracy."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        means = self._gradient(batch, count, epoch)
        self.processes.sum_gradients(self.module)
        # Zeros and clipping must see true gradients: sums over all processes, and without the scale of fp16.
        self.scaler.unscale_(self.optimizer)
        for parameter, zeros in self.forbidden:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(zeros, 0)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.objective.end_step(self.processes)
        return self.processes.sum(means)

    def _gradient(self, batch: Batch, count: int, epoch: int) -> Tensor:
        """Leave the gradient of the batch's mean loss with the parameters; gives mean loss and accuracy."""
        while True:
            self.optimizer.zero_grad()
            try:
                means = sum(self._backward(part, batch, count, epoch) for part in self._parts(batch))
                assert isinstance(means, Tensor)
                return means
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.division.grow(len(batch.ids), self.module, self.objective, error)
            # Out here, where the error and with it what was computed before is gone.
            self.objective.forget_step()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """What is computed at once: at least two images, of which batch norm needs a variance."""
        number = self.division.of(len(batch.ids))
        for ids, images, labels in zip(*(tensor.tensor_split(number) for tensor in batch), strict=True):
            yield Batch(ids, images, labels)

    def _backward(self, part: Batch, batch: Batch, count: int, epoch: int) -> Tensor:
        """Add the gradient of a part to those of the parameters; gives what it adds to mean loss and accuracy."""
        # Of all parts and processes the shares add up to 1, so that the sum of their gradients is the gradient of the
        # mean loss of the whole batch, however it was divided. A process that computes on an image of another's, as
        # there are fewer images than processes, has weight 0.
        share = len(part.ids) / len(batch.ids) * self.processes.weight(count)
        with self.autocast():
            logits, loss = self.objective(self.module, part, epoch)
        self.scaler.scale(loss * share).backward()
        hits = (logits.detach().argmax(1) == part.labels).float().mean()
        return torch.stack([loss.detach().float(), hits]) * share


def augmentation(config: TrainConfig, epoch: int) -> Augmentation:
    """How pictures are shown in an epoch, from 1."""
    return config.augment if config.augment == "crop_flip" else View(config.augment, config.view_number(epoch))


class Watch:
    """Stops a run at its first non-finite loss.

    It looks at a loss when the next comes, by when a GPU has computed it and sent it here: waiting for the newest would
    stall it.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, int, Tensor] | None = None
        self._sent: torch.cuda.Event | None = None

    def __call__(self, loss: Tensor, epoch: int, step: int, ids: Tensor) -> None:
        """Keep a step's loss, the step counted from 1, and look at the one before. Raises ValueError."""
        self.look()
        self._last = (loss.to("cpu", non_blocking=True), epoch, step, ids)
        if loss.is_cuda:
            self._sent = torch.cuda.Event()
            self._sent.record()

    def look(self) -> None:
        """Raise ValueError if the last loss is not finite."""
        if self._sent is not None:
            self._sent.synchronize()
        if self._last is None or self._last[0].isfinite():
            return
        loss, epoch, step, ids = self._last
        images = ", ".join(map(str, ids[:NAMED].tolist())) + ", ..." * (len(ids) > NAMED)
        raise Diverged(
            f"the loss is {loss.item()} at epoch {epoch}, step {step}, on images {images}: "
            "lower learning_rate or set clip_norm"
        )
