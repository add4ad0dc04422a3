"""Test many networks of one architecture on labelled images in a single pass, without writing or building any.

Reading is what many networks can share: decoding a JPEG or drawing a corrupted digit costs as much as a forward pass,
so every batch is made once and all networks answer it. They exist as state dicts alone, run through one module.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from amalgam.tasks.clip.finetuning.interpolate import interpolate
from amalgam.tasks.clip.testing.similarity import DriftMeter
from amalgam.tasks.clip.zero_shot import Classifier, Projection
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices, batches
from amalgam.tasks.scoring.logits import BATCH_SIZE
from amalgam.tasks.scoring.metrics import NO_GROUP, Predictions
from amalgam.tasks.training.averaging import State

Networks = Mapping[str, Callable[[], State]]
"""By name, what makes the state dict of a `Classifier`; called once a batch, so that not all need exist at once."""


@dataclass(frozen=True)
class Examination:
    """Images and how answers to them are read."""

    images: Images
    indices: Indices | None = None
    """Positions of the images to predict; None takes all."""
    head: nn.Module | None = None
    """A head of the images' own classes, for all networks; None takes that of each network."""
    projection: Projection | None = None
    """From the classes of the head to those of the images; None where they are the same."""
    before: Callable[[], State] | None = None
    """The network that drift is measured from; None takes the first one."""
    drift: Mapping[str, DriftMeter] = field(default_factory=dict)
    """By network, what is fed its features beside those of the network before."""
    drift_images: int | None = None
    """How many images drift is measured on, the first of them; None takes all."""


@torch.no_grad()
def examine(
    classifier: Classifier,
    networks: Networks,
    examination: Examination,
    *,
    batch_size: int = BATCH_SIZE,
    precision: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Predictions]:
    """The predictions of each network, in the order of the indices, unaugmented and in eval mode.

    `classifier` gives the architecture and must be on `device`, as the state dicts; its own weights play no part and
    stay as they are. In another `precision` than float32 the encoder runs under autocast. Raises ValueError unless
    there is a logit for each class of the images.
    """
    images, was_training = examination.images, classifier.training
    indices = torch.arange(len(images)) if examination.indices is None else examination.indices
    parts: dict[str, list[Predictions]] = {name: [] for name in networks}
    classifier.eval()
    features_of = partial(_features, classifier.encoder, precision)
    left = _drift_images(examination, len(indices))
    for batch in batches(images, indices, batch_size, device=device):
        before = features_of(examination.before(), batch.images[:left]) if left and examination.before else None
        for name, make in networks.items():
            state = make()
            features = features_of(state, batch.images)
            logits = _logits(classifier, state, features, examination)
            _require_classes(images, logits)
            parts[name].append(Predictions.of(logits, batch.labels, batch.ids))
            before = features[:left] if before is None else before
            if left and name in examination.drift:
                examination.drift[name].update(before, features[:left])
        left = max(0, left - len(batch.ids))
    classifier.train(was_training)
    return {name: _joined(of_network, images) for name, of_network in parts.items()}


def interpolated_networks(before: State, after: State, alphas: tuple[float, ...]) -> dict[str, Callable[[], State]]:
    """The networks of a WiSE-FT interpolation, "alpha=0" to "alpha=1", made at every call.

    The end points are the given weights, bit for bit.
    """
    return {path_name(alpha): partial(interpolate, before, after, alpha) for alpha in alphas}


def path_name(alpha: float) -> str:
    """What the network of a path is called that has this share of the fine-tuned weights."""
    return f"alpha={alpha:g}"


def kept(networks: Networks, num_bytes: int) -> dict[str, Callable[[], State]]:
    """The networks, each made at most once, if all together take no more than `num_bytes`; else as they are."""
    one = next(iter(networks.values()))()
    size = sum(tensor.nbytes for tensor in one.values())
    fits = size * len(networks) <= num_bytes
    return {name: cache(make) if fits else make for name, make in networks.items()}


def _drift_images(examination: Examination, count: int) -> int:
    if not examination.drift:
        return 0
    return count if examination.drift_images is None else min(count, examination.drift_images)


def _features(encoder: nn.Module, precision: torch.dtype, state: State, images: Tensor) -> Tensor:
    exact = precision == torch.float32
    with nullcontext() if exact else torch.autocast(images.device.type, precision):
        features: Tensor = functional_call(encoder, _part(state, "encoder."), (images,))
    return features.float()


def _logits(classifier: Classifier, state: State, features: Tensor, examination: Examination) -> Tensor:
    if examination.head is not None:
        logits: Tensor = examination.head(features)
    else:
        logits = functional_call(classifier.head, _part(state, "head."), (features,))
    return logits if examination.projection is None else examination.projection(logits)


def _part(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _require_classes(images: Images, logits: Tensor) -> None:
    if logits.shape[1] != len(images.class_names):
        raise ValueError(
            f"the test set has {len(images.class_names)} classes but the head gives {logits.shape[1]} logits: "
            "give the test set columns, or templates and class names to make its head of"
        )


def _joined(parts: list[Predictions], images: Images) -> Predictions:
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
    ids = columns["ids"]
    if images.sources is not None:
        columns["sources"] = images.sources[ids]
    columns["groups"] = torch.full_like(ids, NO_GROUP) if images.groups is None else images.groups[ids]
    return Predictions(**columns, group_names=images.group_names)
