"""Stage 1 of BayesTune as a run over epochs: resumable to the very same chain."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices, num_batches, shuffled_batches
from amalgam.tasks.merging.sparse.bayestune import BayesTune
from amalgam.tasks.merging.sparse.gig import gig_mean, gig_mode, gig_sample
from amalgam.tasks.training.epochs import Diverged, Log, Save, State, run_epochs
from amalgam.tasks.training.seeding import derived, seeded

FORGETTING = 0.99  # of the mean square of gradients that steps are divided by
LEAST = 1e-12  # lambda below this presses as if it were this; its entry is at the base all the same
EPS = 1e-8  # keeps steps of entries without gradients finite
CHAIN = 1  # beside the seed, so that noise and order of images are drawn apart
Tensors = dict[str, Tensor]


def sparse_scores(
    module: nn.Module,
    images: Images,
    indices: Indices,
    how: BayesTune,
    seed: int,
    *,
    log: Log,
    resume: State | None = None,
    save: Save | None = None,
    device: torch.device | str = "cpu",
) -> Tensors:
    """The posterior mean of each trained entry's scale, by parameter; `module` itself is left at the end of its chain.

    Raises Diverged as soon as a loss is not finite.
    """
    chain = Chain(module.to(device), images, torch.as_tensor(indices), how, seed, torch.device(device))
    run_epochs(chain, log=log, resume=resume, save=save)
    return {name: (total / max(1, chain.averaged)).cpu() for name, total in chain.totals.items()}


@dataclass
class Chain:
    """A chain after `len(history)` epochs."""

    module: nn.Module
    images: Images
    indices: Tensor
    how: BayesTune
    seed: int
    device: torch.device
    history: list[dict[str, float]] = field(default_factory=list)
    averaged: int = 0
    """Values of lambda that the totals are over."""

    def __post_init__(self) -> None:
        self.trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.base = {name: p.detach().clone() for name, p in self.trained.items()}
        self.scales = {name: torch.zeros_like(p) for name, p in self.base.items()}
        self.totals = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self.base.items()}
        self.squares = {name: torch.zeros_like(p) for name, p in self.base.items()}

    @property
    def is_finished(self) -> bool:
        """Whether no epoch is left."""
        return len(self.history) == self.how.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return num_batches(len(self.indices), self.how.batch_size)

    def advance(self) -> None:
        """One epoch."""
        epoch, seen, total = len(self.history) + 1, 0, 0.0
        with seeded(self.seed, epoch, self.device) as order:
            noise = torch.Generator().manual_seed(derived(self.seed, CHAIN, epoch))
            batches = shuffled_batches(
                self.images, self.indices, self.how.batch_size, generator=order, device=self.device
            )
            for step, batch in enumerate(batches):
                loss = self._step(batch.images, batch.labels, epoch, (epoch - 1) * self.steps_per_epoch + step, noise)
                total, seen = total + loss * len(batch.ids), seen + len(batch.ids)
        self.history.append({"train/loss": total / seen})

    def state(self) -> State:
        """All that the next epoch reads."""
        named = {"base": self.base, "scales": self.scales, "totals": self.totals, "squares": self.squares}
        return {"module": self.module.state_dict(), "history": self.history, "averaged": self.averaged} | named

    def restore(self, state: State) -> None:
        """Become the chain that gave `state`."""
        self.module.load_state_dict(state["module"])
        self.history, self.averaged = list(state["history"]), state["averaged"]
        self.base, self.scales, self.totals, self.squares = (
            dict(state[name]) for name in ("base", "scales", "totals", "squares")
        )

    def _step(self, x: Tensor, labels: Tensor, epoch: int, step: int, noise: torch.Generator) -> float:
        self.module.train()
        loss = cross_entropy(self.module(x), labels)
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} in epoch {epoch}: lower the learning rate of BayesTune")
        gradients = torch.autograd.grad(loss, list(self.trained.values()))
        for (name, parameter), gradient in zip(self.trained.items(), gradients, strict=True):
            self._move(name, parameter.data, gradient, epoch, step, noise)
        if epoch > self.how.burn_in and step % self.how.thin == 0:
            self.averaged += 1
            for name, scale in self.scales.items():
                self.totals[name] += scale
        return loss.item()

    def _move(self, name: str, theta: Tensor, gradient: Tensor, epoch: int, step: int, noise: torch.Generator) -> None:
        """One step of an array of theta and, after the warm-up, of its lambda.

        The prior's part is the proximal map of its absolute value, in Langevin dynamics too: its gradient, without
        bound near the base, would throw an entry to the other side.
        """
        how, base = self.how, self.base[name]
        square = self.squares[name].mul_(FORGETTING).addcmul_(gradient, gradient, value=1 - FORGETTING)
        rate = how.learning_rate / ((square / (1 - FORGETTING ** (step + 1))).sqrt() + EPS)
        theta -= rate * gradient
        if epoch <= how.warmup:
            return
        moved = theta - base
        self.scales[name] = scale = self._scale(moved.abs(), noise)
        pull = rate / (how.num_data * scale.clamp_min(LEAST))
        moved = moved.sign() * (moved.abs() - pull).clamp_min(0)
        if how.chain == "sgld":
            drawn = torch.randn(theta.shape, generator=noise).to(theta)
            moved += (2 * how.temperature * rate / how.num_data).sqrt() * drawn
        theta.copy_(base + moved)

    def _scale(self, moved: Tensor, noise: torch.Generator) -> Tensor:
        """Lambda of entries that moved so far."""
        p, a, b = self.how.shape - 1, 2 * self.how.rate, (2 * moved).cpu()
        found = {"mode": gig_mode, "mean": gig_mean}.get(self.how.rule)
        return (found(p, a, b) if found else gig_sample(p, a, b, noise)).to(moved)
