"""Train a classifier on a few labelled and many unlabelled images by one of four methods, resumably.

Every epoch draws its batches from (seed, epoch) alone. Networks of SPARSE: classifier C, critic D with a class head,
generator G. C and D label unlabelled images together: a combiner of `tasks.scoring.combining` over both, averaged over
time by the id of each image.
"""

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from amalgam.tasks.imaging.few_shot import losses
from amalgam.tasks.imaging.few_shot.augment import strong, weak
from amalgam.tasks.imaging.few_shot.config import FewShotConfig
from amalgam.tasks.imaging.few_shot.networks import Critic, FewShotClassifier, Generator
from amalgam.tasks.scoring.combining import EntropyConfidence, PseudoLabels
from amalgam.tasks.training.epochs import Log, Save, State, run_epochs, silent
from amalgam.tasks.training.seeding import derived

MIXUP = 0.2  # both parameters of the Beta distribution that shares are drawn from


@dataclass(frozen=True)
class Shots:
    """The images that a classifier is trained on, in [-1, 1], (n, c, h, w)."""

    labelled: Tensor
    labels: Tensor
    """(n,) of the labelled ones."""
    unlabelled: Tensor
    num_classes: int


@dataclass(frozen=True)
class Networks:
    """What training ends with."""

    classifier: FewShotClassifier
    critic: Critic
    generator: Generator

    @torch.no_grad()
    def logits(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """Logits (2, n, classes) of the classifier and of the critic's class head."""
        parts = images.split(batch_size)
        return torch.stack(
            [
                torch.cat([self.classifier(part) for part in parts]),
                torch.cat([self.critic(part).logits for part in parts]),
            ]
        )


def train_few_shot(
    config: FewShotConfig,
    shots: Shots,
    seed: int,
    *,
    log: Log = silent,
    resume: State | None = None,
    save: Save | None = None,
) -> Networks:
    """The networks after training; cut short and resumed they have the same weights. Runs where the images are.

    Every epoch logs its mean loss and the CPU seconds that it took.
    """
    run = _Run(config, shots, seed)
    run_epochs(run, log=log, resume=resume, save=save)
    return run.networks


@dataclass
class _Run:
    """A training run; see `tasks.training.epochs.Run`."""

    config: FewShotConfig
    shots: Shots
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config, device = self.config, self.shots.labelled.device
        sizes = (self.shots.num_classes, self.shots.labelled.shape[1], config.width)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            networks = (FewShotClassifier(*sizes).to(device), Critic(*sizes).to(device), Generator(*sizes).to(device))
        self.networks = Networks(*networks)
        self.optimisers = [torch.optim.AdamW(each.parameters(), config.learning_rate) for each in networks]
        self.combiner = EntropyConfidence(temperature=config.temperature)
        self.pseudo_labels = PseudoLabels(quantile=config.quantile)

    @property
    def is_finished(self) -> bool:
        return len(self.history) >= self.config.epochs

    def advance(self) -> None:
        start = time.process_time()  # not the clock: methods are compared on machines that do other work too
        generator = torch.Generator().manual_seed(derived(self.seed, len(self.history)))
        progress = len(self.history) / self.config.epochs
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        with_unlabelled = progress >= self.config.warm_up
        lost = [self._step(generator, with_unlabelled, step) for step in range(self.config.steps)]
        self.history.append({"loss": sum(lost) / len(lost), "cpu_seconds": time.process_time() - start})

    def _step(self, generator: torch.Generator, with_unlabelled: bool, step: int) -> float:
        loss = self._supervised(*self._labelled(generator), generator)
        batch: tuple[Tensor, Tensor] | None = None
        if with_unlabelled and self.config.method != "supervised":
            ids = torch.randperm(len(self.shots.unlabelled), generator=generator)[: self.config.batch_size]
            unlabelled = weak(self.shots.unlabelled[ids], generator)
            if self.config.method == "fixmatch":
                loss = loss + self._fixmatch(ids, unlabelled, generator)
            else:
                batch = self._pseudo_labelled(ids, unlabelled)
                loss = loss + self._cross_entropy(*batch)
        self._move(loss, (0, 1))
        if batch and self.config.method == "sparse" and step % self.config.translate_every == 0:
            self._translate(*batch, generator)
        return loss.item()

    def _labelled(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        ids = torch.randint(len(self.shots.labels), (self.config.batch_size,), generator=generator)
        return weak(self.shots.labelled[ids], generator), self.shots.labels[ids]

    def _supervised(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        logits = [self.networks.classifier(images), self.networks.critic(images).logits]
        loss = config.mutual * losses.mutual_divergence(logits) + self._mixup(images, labels, generator)
        for each in logits:
            loss = loss + functional.cross_entropy(each, labels) + config.entropy * losses.entropy(each)
            loss = loss + losses.prototype_loss(each, labels, config.temperature)
        return loss

    def _mixup(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(MIXUP, MIXUP))
        order = torch.randperm(len(images), generator=generator)
        return self.config.mixup * losses.mixup_loss(self.networks.classifier, images, labels, share, order)

    def _fixmatch(self, ids: Tensor, unlabelled: Tensor, generator: torch.Generator) -> Tensor:
        """Sohn et al. (2020), for both networks, so that they are compared at equal cost."""
        harder = strong(self.shots.unlabelled[ids], generator)
        total = torch.zeros(())
        for network in (self.networks.classifier, lambda x: self.networks.critic(x).logits):
            certainty, labels = network(unlabelled).detach().softmax(1).max(1)
            of_each = functional.cross_entropy(network(harder), labels, reduction="none")
            total = total + (of_each * (certainty >= self.config.threshold)).mean()
        return total

    def _pseudo_labelled(self, ids: Tensor, unlabelled: Tensor) -> tuple[Tensor, Tensor]:
        """The images that both networks together are sure of, and their labels; maybe none."""
        combined = self.combiner.combine(self.networks.logits(unlabelled)).exp().float()
        batch = self.pseudo_labels.update(ids.tolist(), combined)
        return unlabelled[batch.kept], batch.labels[batch.kept]

    def _cross_entropy(self, images: Tensor, labels: Tensor) -> Tensor:
        """That of both networks, weighted by how many images there are of a batch's."""
        total = functional.cross_entropy(self.networks.classifier(images), labels, reduction="sum")
        total = total + functional.cross_entropy(self.networks.critic(images).logits, labels, reduction="sum")
        return total / self.config.batch_size

    def _translate(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """One update of the critic, of the generator, and of the classifier on images of the classes wanted."""
        if not len(images):
            return
        wanted = torch.randint(self.shots.num_classes, labels.shape, generator=generator).to(labels.device)
        critic, translate = self.networks.critic, self.networks.generator
        fake = translate(images, wanted)
        apart = critic(fake.detach()).realness.mean() - critic(images).realness.mean()
        shares = torch.rand(len(images), generator=generator).to(images.device)
        self._move(apart + self.config.penalty * losses.gradient_penalty(critic, images, fake.detach(), shares), (1,))
        judged = critic(fake)
        back = functional.l1_loss(translate(fake, labels), images)
        of_class = functional.cross_entropy(judged.logits, wanted)
        self._move(of_class - judged.realness.mean() + self.config.reconstruction * back, (2,))
        self._move(functional.cross_entropy(self.networks.classifier(fake.detach()), wanted), (0,))

    def _move(self, loss: Tensor, which: tuple[int, ...]) -> None:
        """One step of some optimisers; gradients that the loss leaves in other networks are dropped."""
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        for place in which:
            self.optimisers[place].step()

    def state(self) -> State:
        return {
            "networks": [network.state_dict() for network in vars(self.networks).values()],
            "optimisers": [each.state_dict() for each in self.optimisers],
            "means": self.pseudo_labels.means,
            "history": self.history,
        }

    def restore(self, state: State) -> None:
        parts = {"networks": vars(self.networks).values(), "optimisers": self.optimisers}
        for name, objects in parts.items():
            for one, of_one in zip(objects, state[name], strict=True):
                one.load_state_dict(of_one)
        device = self.shots.labelled.device
        self.pseudo_labels.means.update({example: mean.to(device) for example, mean in state["means"].items()})
        self.history = list(state["history"])
