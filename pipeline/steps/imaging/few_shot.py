"""Train a classifier on a few labelled images of each class and all others without labels; test it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.imaging.few_shot.config import FewShotConfig
from amalgam.tasks.scoring.results import Network, Result

if TYPE_CHECKING:
    from amalgam.tasks.data.images import Images
    from amalgam.tasks.data.splits import Indices
    from amalgam.tasks.imaging.few_shot.training import Shots


class FewShotStepConfig(Config):
    """One classifier."""

    data: DataSpec
    shots: PositiveInt
    """Labelled images of each class."""
    unlabelled: PositiveInt
    """Most images without labels, drawn from the rest of the training split."""
    training: FewShotConfig
    seed: int
    """Draws the labelled images, the weights and the batches."""


def train_and_test(config: FewShotStepConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Accuracy of the classifier alone, and together with the critic's class head, on the test split."""
    import torch
    from torch.nn.functional import nll_loss

    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.measures import TEST, recorded
    from amalgam.tasks.data.images import load
    from amalgam.tasks.imaging.few_shot.training import train_few_shot
    from amalgam.tasks.scoring.logits import probability_ensemble

    images, test = (load(config.data, split, work.data_root) for split in ("train", "test"))
    shots = draw_shots(config, images, work.device)
    seconds: list[float] = []

    def log(metrics: dict[str, float], epoch: int) -> None:  # of all epochs, those before a retry too
        seconds.append(metrics["cpu_seconds"])
        work.log(metrics, epoch)

    trained = train_few_shot(config.training, shots, config.seed, log=log, resume=resume_state(work), save=saver(work))
    pixels, labels = _pixels(test, torch.arange(len(test))), torch.as_tensor(test.labels)
    logits = trained.logits(pixels.to(work.device)).cpu()
    both = probability_ensemble(list(logits))
    network = Network(
        kind="classifier", method=config.training.method, settings={"shots": config.shots}, seed=config.seed
    )
    measured = {
        "accuracy": (logits[0].argmax(1) == labels).double().mean().item(),
        "accuracy_of_both": (both.argmax(1) == labels).double().mean().item(),
        "nll": nll_loss(logits[0].log_softmax(1), labels).item(),
        "cpu_seconds": sum(seconds),
    }
    results = [Result(network, TEST, None, name, value) for name, value in measured.items()]
    return {**recorded(results, work.out), "data_fingerprint": images.fingerprint}


def draw_shots(config: FewShotStepConfig, images: "Images", device: str) -> "Shots":
    """`shots` labelled images of each class, and others without labels."""
    import torch

    from amalgam.tasks.imaging.few_shot.training import Shots

    chosen, others = _drawn(config, images.labels.numpy(), images.class_names)
    labelled, unlabelled = (_pixels(images, torch.from_numpy(ids)).to(device) for ids in (chosen, others))
    return Shots(labelled, images.labels[chosen].to(device), unlabelled, len(images.class_names))


def _drawn(config: FewShotStepConfig, labels: "Indices", class_names: Sequence[str]) -> "tuple[Indices, Indices]":
    """Positions of labelled and of unlabelled images. Raises ValueError if there are too few."""
    import numpy as np

    counts = np.bincount(labels, minlength=len(class_names))
    if (few := int(counts.min())) < config.shots:
        name = class_names[int(counts.argmin())]
        raise ValueError(f"class {name!r} has {few} training images, fewer than --shots {config.shots}")
    order = np.random.default_rng((config.seed, 2)).permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == kind][: config.shots] for kind in range(len(counts))])
    others = np.setdiff1d(order, chosen)
    if not len(others):
        raise ValueError(f"--shots {config.shots} are all training images: give fewer, so that some have no label")
    return chosen, np.random.default_rng((config.seed, 3)).permutation(others)[: config.unlabelled]


def check_shots(config: FewShotStepConfig, data_root: Path | None) -> None:
    """Raise ValueError unless there are images enough, and test images are of the shape of training images."""
    labels, class_names, shapes = _facts(config.data, data_root)
    _drawn(config, labels, class_names)
    if shapes[0] != shapes[1]:
        raise ValueError(f"training images are {shapes[0]} and test images {shapes[1]}: give --image-size")


@cache
def _facts(data: DataSpec, root: Path | None) -> "tuple[Indices, Sequence[str], list[tuple[int, ...]]]":
    """Training labels, names of classes, and shapes of training and test images: read once for all steps' checks."""
    from amalgam.tasks.data.images import load

    train, test = (load(data, split, root) for split in ("train", "test"))
    return train.labels.numpy(), train.class_names, [train.shape, test.shape]


def _pixels(images: "Images", ids: Any) -> Any:
    """Images (n, c, h, w) in [-1, 1]."""
    import torch

    from amalgam.tasks.data.loading import batches

    return torch.cat([batch.images for batch in batches(images, ids, 4096)])


FEW_SHOT = Kind(
    "few_shot", train_and_test, FewShotStepConfig, version=2, slow_check=check_shots, expect=Expect(30, 10_000)
)
