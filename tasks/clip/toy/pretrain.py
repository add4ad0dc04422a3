"""Pre-train a small CLIP on a world's pictures and captions, resumably: a run cut short ends with the same weights.

On a GPU this is so up to the order in which some kernels add. Everything random in epoch e is drawn from (seed, e)
alone, and no picture is seen twice.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amalgam.tasks.clip.contrastive_loss import contrastive_loss, retrieval
from amalgam.tasks.clip.toy.captioned import Captioned
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.models.clip import Clip
from amalgam.tasks.training.epochs import Diverged, Log, Save, State, run_epochs
from amalgam.tasks.training.optimizers import optimizer
from amalgam.tasks.training.seeding import seeded

BATCHES_DRAWN = 8  # at once: styles are drawn one after the other, each for too few pictures of a single batch


def pretrain(
    clip: Clip,
    world: Captioned,
    config: PretrainConfig,
    seed: int,
    *,
    log: Log,
    resume: State | None = None,
    save: Save | None = None,
    device: torch.device | str = "cpu",
) -> Clip:
    """Train a copy of `clip`, both towers and the logit scale, on the world's pictures, whose captions may repeat.

    `seed` draws the order of each epoch; `log`, `save` and `resume` are those of `run_epochs`. Raises
    ValueError for a loss that is not finite.
    """
    run = _Run.start(clip, world, config, seed, torch.device(device))
    run_epochs(run, log=log, resume=resume, save=save)
    return replace(clip, model=run.model.eval())


@dataclass
class _Run:
    """A training run after `len(history)` epochs."""

    clip: Clip
    model: Any
    optimizer: Optimizer
    world: Captioned
    config: PretrainConfig
    seed: int
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, clip: Clip, world: Captioned, config: PretrainConfig, seed: int, device: torch.device) -> "_Run":
        model: nn.Module = copy.deepcopy(clip.model).to(device)
        return cls(clip, model, optimizer(model, config.train), world, config, seed, device)

    @property
    def is_finished(self) -> bool:
        return len(self.history) == self.config.train.epochs

    def state(self) -> State:
        """All that the next epoch reads."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "history": self.history}

    def restore(self, state: State) -> None:
        """Take the place of the run that gave `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])

    def advance(self) -> None:
        """One epoch."""
        epoch, steps, train = len(self.history) + 1, self.config.steps_per_epoch, self.config.train
        self.model.train()
        seen: list[Tensor] = []
        with seeded(self.seed, epoch, self.device) as generator:
            for step, (pixels, captions) in enumerate(self._batches(epoch, generator)):
                for group in self.optimizer.param_groups:
                    group["lr"] = train.learning_rate_at((epoch - 1) * steps + step, steps)
                seen.append(self._step(pixels, captions))
        losses, found = torch.stack(seen).cpu().T
        _require_finite(losses, epoch)
        rate = self.optimizer.param_groups[0]["lr"]
        metrics = {"loss": losses.mean().item(), "retrieval": found.mean().item(), "learning_rate": rate}
        self.history.append({f"pretrain/{name}": value for name, value in metrics.items()})

    def _batches(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, list[str]]]:
        """The pictures of an epoch and their captions, in an order drawn from `generator`."""
        size, steps = self.config.train.batch_size, self.config.steps_per_epoch
        ids = torch.randperm(size * steps, generator=generator) + (epoch - 1) * size * steps
        for chunk in ids.split(size * BATCHES_DRAWN):
            pixels, captions = self.world.batch(chunk)
            for start in range(0, len(chunk), size):
                yield pixels[start : start + size], captions[start : start + size]

    def _step(self, pixels: Tensor, captions: list[str]) -> Tensor:
        """One step of the optimiser; gives the loss and the share of pictures that find their caption, (2,)."""
        images, tokens = normalise(pixels.to(self.device)), self.clip.tokenizer(captions)
        caption_ids = tokens.unique(dim=0, return_inverse=True)[1].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"):
            features = self.model.encode_image(images, normalize=True)
            text_features = self.model.encode_text(tokens.to(self.device), normalize=True)
        features, text_features = features.float(), text_features.float()
        loss = contrastive_loss(features, text_features, self.model.logit_scale.exp(), caption_ids)
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=torch.tensor(self.config.max_logit_scale).log().item())
        return torch.stack([loss.detach(), retrieval(features.detach(), text_features.detach(), caption_ids)])


def _require_finite(losses: Tensor, epoch: int) -> None:
    finite = losses.isfinite()
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise Diverged(f"the loss is {losses[step - 1].item()} at epoch {epoch}, step {step}: lower learning_rate")
