"""Train many sparse autoencoders in one pass over the features, resumably.

Batches of epoch e are drawn from (seed, e) alone and are the same for every autoencoder; each ends as it would have
ended on its own. Autoencoders of one rule and size are trained as one stack of tensors.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from amalgam.tasks.sae.autoencoder import SparseAutoencoder, initial, require_rows
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import JumpReLU, family
from amalgam.tasks.sae.training.resampling import EXAMPLES, resample
from amalgam.tasks.sae.training.rows import FeatureRows, InMemory, Streamed
from amalgam.tasks.sae.training.stack import Stack, StackLoss
from amalgam.tasks.training.epochs import Diverged, Log, Save, State, run_epochs
from amalgam.tasks.training.seeding import derived

CACHED = 1 << 22  # pre-activations of a batch that a CPU's stack may have: beyond its caches, stacking costs time


def train(
    features: Tensor | Streamed,
    about: FeatureInfo,
    specs: Sequence[SAESpec],
    config: SAETrainConfig,
    *,
    log: Log,
    resume: State | None = None,
    save: Save | None = None,
    start: SparseAutoencoder | None = None,
) -> list[SparseAutoencoder]:
    """The autoencoders of `specs`, trained on features (num_examples, width), or more than fit into memory.

    They are on the device where the features are, and start as drawn from their seeds, or all as `start`.

    Every epoch logs `{name}/fvu`, `/l0`, `/dead_share` and `/auxk` of every spec; `log`, `resume` and `save` are those
    of `tasks.training.epochs.run_epochs`. Raises ValueError for features that do not fit `about`, are not finite or
    all alike, and for a loss that is not finite.
    """
    run = _Run.start(InMemory(features) if isinstance(features, Tensor) else features, about, specs, config, start)
    run_epochs(run, log=log, resume=resume, save=save)
    return run.trained()


@torch.no_grad()
def mean_and_variance(features: Tensor | FeatureRows) -> tuple[Tensor, float]:
    """The mean feature (width,) and the mean squared distance from it."""
    rows = InMemory(features) if isinstance(features, Tensor) else features
    total, dtype = torch.zeros(rows.width, dtype=torch.float64, device=rows.device), torch.float32
    for share in rows.parts():
        total += share.double().sum(0)
        dtype = torch.promote_types(share.dtype, dtype)
    mean = total / len(rows)
    squares = sum((share.double() - mean).square().sum() for share in rows.parts())
    return mean.to(dtype), float(squares) / len(rows)


@dataclass
class _Run:
    """A training run after `step` steps and `len(history)` epochs."""

    features: FeatureRows
    variance: float
    specs: Sequence[SAESpec]
    config: SAETrainConfig
    members: list[list[int]]
    """Positions in `specs` of the autoencoders of each stack."""
    stacks: list[Stack]
    optimizers: list[Optimizer]
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        features: FeatureRows,
        about: FeatureInfo,
        specs: Sequence[SAESpec],
        config: SAETrainConfig,
        start: SparseAutoencoder | None,
    ) -> "_Run":
        mean, variance = _checked_moments(features, about, specs)
        infos = [spec.info(about) for spec in specs]
        members = _stacked(infos, config.batch_size, features.device)
        stacks = []
        for indices in members:
            saes = [deepcopy(start) if start else initial(infos[i], config, mean.cpu(), specs[i].seed) for i in indices]
            stacks.append(Stack(saes, config).to(mean))
        optimizers = [_optimizer(stack, config) for stack in stacks]
        return cls(features, variance, specs, config, members, stacks, optimizers)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.features) // self.config.batch_size)

    @property
    def num_steps(self) -> int:
        return self.config.num_steps(self.steps_per_epoch)

    @property
    def is_finished(self) -> bool:
        return self.step == self.num_steps

    @property
    def dead_after(self) -> int:
        """Examples without firing after which a latent counts as dead."""
        return max(1, round(self.config.dead_after * len(self.features)))

    def state(self) -> State:
        """All that the next epoch reads."""
        return {
            "specs": [spec.model_dump_json() for spec in self.specs],
            "stacks": [stack.state_dict() for stack in self.stacks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "history": self.history,
        }

    def restore(self, state: State) -> None:
        """Continue as the run that gave `state`."""
        ours = [spec.model_dump_json() for spec in self.specs], len(self.stacks)
        if (state["specs"], len(state["stacks"])) != ours:
            raise ValueError(
                "the state to resume from belongs to other autoencoders, or to another kind of device: "
                "resume with the specs and the device that it was made with"
            )
        for stack, part in zip(self.stacks, state["stacks"], strict=True):
            stack.load_state_dict(part)
        for optimizer, part in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        self.step, self.history = state["step"], list(state["history"])

    def advance(self) -> None:
        """One epoch, or what is left of the run."""
        epoch = len(self.history) + 1
        parts: list[list[tuple[StackLoss, int]]] = [[] for _ in self.stacks]
        for batch in self._batches(epoch, self.config.batch_size):
            for stack, optimizer, losses in zip(self.stacks, self.optimizers, parts, strict=True):
                losses.append((self._step(stack, optimizer, batch), len(batch)))
            self.step += 1
            if self.step == self.num_steps:
                break
        metrics: dict[str, float] = {}
        for stack, indices, losses in zip(self.stacks, self.members, parts, strict=True):
            metrics |= self._metrics(stack, indices, losses)
        self.history.append(metrics)
        if self.config.resample and epoch % self.config.resample == 0 and not self.is_finished:
            self._resample(epoch)

    def _resample(self, epoch: int) -> None:
        examples = next(self._batches(epoch, EXAMPLES))
        for stack, optimizer in zip(self.stacks, self.optimizers, strict=True):
            resample(stack, optimizer, examples, self.dead_after, seed=epoch)

    def trained(self) -> list[SparseAutoencoder]:
        """The autoencoders in the order of their specs."""
        by_index = {
            i: sae
            for indices, stack in zip(self.members, self.stacks, strict=True)
            for i, sae in zip(indices, stack.unstacked(), strict=True)
        }
        return [by_index[i].eval() for i in range(len(self.specs))]

    def _batches(self, epoch: int, size: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(derived(self.config.seed, epoch))
        for batch in self.features.batches(size, generator):
            yield batch.to(torch.promote_types(batch.dtype, torch.float32))

    def _step(self, stack: Stack, optimizer: Optimizer, batch: Tensor) -> StackLoss:
        config = self.config
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step, self.num_steps, stack.infos[0].num_latents)
        optimizer.zero_grad()
        loss = stack.loss(batch, self.variance, self.dead_after)
        loss.total.sum().backward()
        stack.shape_gradients()
        optimizer.step()
        stack.restore_constraints()
        return StackLoss(loss.total.detach(), loss.fvu, loss.auxk, loss.l0)

    def _metrics(self, stack: Stack, indices: list[int], losses: list[tuple[StackLoss, int]]) -> dict[str, float]:
        """Means over an epoch, by autoencoder. Raises ValueError for a loss that is not finite."""
        names = [self.specs[index].name for index in indices]
        self._require_finite(torch.stack([loss.total for loss, _ in losses]), names)
        sizes = torch.tensor([size for _, size in losses], dtype=torch.float64)
        columns = {
            metric: (sizes / sizes.sum()) @ torch.stack([getattr(loss, metric) for loss, _ in losses]).double().cpu()
            for metric in ("fvu", "l0", "auxk")
        }
        columns["dead_share"] = (stack.silent >= self.dead_after).double().mean(1)
        return {
            f"{name}/{metric}": column[place].item()
            for metric, column in columns.items()
            for place, name in enumerate(names)
        }

    def _require_finite(self, totals: Tensor, names: list[str]) -> None:
        bad = (~totals.isfinite()).nonzero()
        if len(bad):
            step, place = bad[0].tolist()
            raise Diverged(
                f"the loss of {names[place]} is {totals[step, place].item()} at step "
                f"{self.step - len(totals) + step + 1}: lower learning_rate or set clip_norm"
            )


def _stacked(infos: Sequence[SAEInfo], batch_size: int, device: torch.device) -> list[list[int]]:
    """Which autoencoders are one stack: those of one size and rule, on a CPU no more at once than fit its caches."""
    groups: dict[Any, list[int]] = {}
    for index, info in enumerate(infos):
        groups.setdefault((info.num_latents, family(info.sparsity)), []).append(index)
    stacks = []
    for (num_latents, _), indices in groups.items():
        most = max(1, CACHED // (batch_size * num_latents)) if device.type == "cpu" else len(indices)
        stacks += [indices[start : start + most] for start in range(0, len(indices), most)]
    return stacks


def _optimizer(stack: Stack, config: SAETrainConfig) -> Optimizer:
    # Thresholds feel few examples at a time; dictionary_learning trains them without momentum.
    betas = (0.0 if isinstance(stack.infos[0].sparsity, JumpReLU) else 0.9, 0.999)
    learnt = [parameter for parameter in stack.parameters() if parameter.requires_grad]
    return AdamW(learnt, lr=1e-3, betas=betas, weight_decay=config.weight_decay, fused=True)


def _checked_moments(features: FeatureRows, about: FeatureInfo, specs: Sequence[SAESpec]) -> tuple[Tensor, float]:
    """Mean and variance of the features. Raises ValueError for features or specs that nothing can be trained on."""
    names = [spec.name for spec in specs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"give one or more autoencoders that differ in rule, size or seed, got {names}")
    for part in features.parts():
        require_rows(specs[0].info(about), part)
    mean, variance = mean_and_variance(features)
    if not variance > 0 or variance == float("inf"):
        raise ValueError(f"features must be finite and differ from each other, got a variance of {variance}")
    return mean, variance
