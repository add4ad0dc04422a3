"""Training sparse autoencoders (TopK), and how much faster that is than the plain way.

*Yardstick*: `yardsticks/autoencoder.py`, a DataLoader and dense masked codes, and ours train the same autoencoder on
the same batches of features in turn, on one thread, as a step has; ratios are medians over rounds of those within a
round. Their loss curves are compared too.
*Peer*: SAELens' own trainer beside ours, where it is installed (`yardsticks/saelens.py`).
*Loss*: variance that is left unexplained of held-out features after the given number of examples, each by its own
defaults, and SAELens at our learning rate too (means over two seeds). Features are made of fewer atoms than there
are latents, drawn apart from every autoencoder's first atoms.
*Many*: eight autoencoders of different seeds in one pass, beside one. All eight share what is read, but each has
multiplications of its own, which on a CPU is most of the work.
*Sizes*: width 512 with 2048 latents, k 16, as of ViT-B/16; width 64 with 256 latents, k 4, as of the small world.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median

import torch
from torch import Tensor

from amalgam.pipeline.engine.host import threads
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import fvu
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.sae.training.train import train
from benchmarks.measure import Measure, report, seconds
from benchmarks.yardsticks.autoencoder import naive_training
from benchmarks.yardsticks.saelens import IS_INSTALLED, peer_training

THREADS, TOGETHER = 1, 8
PLANTED = 97_531  # seed of the features, which no autoencoder has


@dataclass(frozen=True)
class Size:
    """Features and an autoencoder, how long it is trained, and where."""

    width: int
    k: int
    num_examples: int
    batch_size: int = 1024
    epochs: int = 4
    rounds: int = 5
    loss_examples: int = 40_960
    seeds: int = 2
    expansion: float = 4.0
    device: str = "cpu"

    @property
    def about(self) -> FeatureInfo:
        """What the features are."""
        return FeatureInfo(width=self.width, backbone="planted")

    @property
    def config(self) -> SAETrainConfig:
        """Few enough passes for no latent to count as dead."""
        return SAETrainConfig(epochs=self.epochs, batch_size=self.batch_size)

    def specs(self, count: int) -> list[SAESpec]:
        """Autoencoders of different seeds."""
        return [SAESpec(sparsity=TopK(k=self.k), expansion=self.expansion, seed=seed) for seed in range(count)]


def measure(sizes: Sequence[Size] = (Size(512, 16, 8192), Size(64, 4, 32768))) -> list[Measure]:
    """Examples per second, and ratios."""
    with threads(THREADS):
        return [found for size in sizes for found in (*yardstick(size), *peer(size), *losses(size), *together(size))]


def yardstick(size: Size) -> list[Measure]:
    """Ours beside the plain way."""
    features, (spec,) = planted(size), size.specs(1)
    plain, ours = list[float](), list[float]()
    times = [
        (
            seconds(lambda: plain.extend(naive_training(features, size.about, spec, size.config))),
            seconds(lambda: ours.extend(curve(features, size, spec))),
        )
        for _ in range(size.rounds + 1)
    ][1:]
    seen, where = size.num_examples * size.epochs, f"width {size.width}: "
    apart = max(abs(our / its - 1) for our, its in zip(ours, plain, strict=True))
    return [
        Measure(where + "DataLoader and dense mask", seen / median(naive for naive, _ in times), "examples/s"),
        Measure(where + "ours", seen / median(our for _, our in times), "examples/s"),
        Measure(where + "ours, over the time of the former", median(b / a for a, b in times), "x", at_most=0.5),
        Measure(where + "distance of the loss curves", 100 * apart, "%", at_most=0.1),
    ]


def peer(size: Size) -> list[Measure]:
    """Ours beside SAELens, if that is there."""
    if not IS_INSTALLED:
        return []
    features, (spec,) = planted(size), size.specs(1)
    times = [
        (
            seconds(lambda: peer_training(features, spec, spec.info(size.about).num_latents, size.config)),
            seconds(lambda: trained(features, size, 1)),
        )
        for _ in range(size.rounds + 1)
    ][1:]
    return [Measure(f"width {size.width}: ours, over the time of SAELens", median(b / a for a, b in times), "x")]


def losses(size: Size) -> list[Measure]:
    """What training leaves unexplained, ours and SAELens' in each seed."""
    train_on, held_out = planted(size, size.loss_examples), planted(size, 4096, draw=1)
    found: dict[str, list[float]] = {}
    for spec in size.specs(size.seeds):
        (sae,) = train(train_on, size.about, [spec], size.config, log=lambda metrics, epoch: None)
        found.setdefault("ours", []).append(fvu(held_out, sae(held_out).detach()))
        if IS_INSTALLED:
            number, ours = spec.info(size.about).num_latents, size.config.learning_rate_at
            for name, rate in (("SAELens", 3e-4), ("SAELens at our learning rate", ours(1, 2, number))):
                torch.manual_seed(spec.seed)
                theirs = peer_training(train_on, spec, number, size.config, rate)
                found.setdefault(name, []).append(fvu(held_out, theirs(held_out)))
    examples = size.loss_examples * size.epochs
    return [
        Measure(f"width {size.width}: FVU after {examples:,} examples, {name}", fmean(values), "")
        for name, values in found.items()
    ]


def together(size: Size) -> list[Measure]:
    """Several in one pass beside one."""
    features = planted(size)
    times = [
        tuple(seconds(partial(trained, features, size, count)) for count in (1, TOGETHER))
        for _ in range(size.rounds + 1)
    ][1:]
    what = f"width {size.width}: {TOGETHER} in one pass, over the time of one"
    return [Measure(what, median(many / one for one, many in times), "x", at_most=3)]


def curve(features: Tensor, size: Size, spec: SAESpec) -> list[float]:
    """The share of unexplained variance in every epoch."""
    found: list[float] = []
    train(features, size.about, [spec], size.config, log=lambda metrics, _: found.append(metrics[f"{spec.name}/fvu"]))
    return found


def trained(features: Tensor, size: Size, count: int) -> None:
    """Train some autoencoders in one pass."""
    train(features, size.about, size.specs(count), size.config, log=lambda metrics, epoch: None)


def planted(size: Size, num_examples: int | None = None, draw: int = 0) -> Tensor:
    """Unit features made of `k` of three atoms per dimension and a little noise; `draw` chooses examples, not atoms."""
    generator = torch.Generator().manual_seed(PLANTED)
    atoms = unit_norm(torch.randn(3 * size.width, size.width, generator=generator))
    generator.manual_seed(PLANTED + 1 + draw)
    count = num_examples or size.num_examples
    chosen = torch.randint(len(atoms), (count, size.k), generator=generator)
    strengths = 0.5 + torch.rand(count, size.k, generator=generator)
    mixed = torch.nn.functional.embedding_bag(chosen, atoms, per_sample_weights=strengths, mode="sum")
    return unit_norm(mixed + 0.1 * torch.randn(mixed.shape, generator=generator) / size.width**0.5).to(size.device)


if __name__ == "__main__":
    report(__doc__, measure, tiny={"sizes": (Size(16, 2, 256, batch_size=64, rounds=1, loss_examples=256, seeds=1),)})
