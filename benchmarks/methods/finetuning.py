"""A step of fine-tuning with a penalty on feature drift, beside a plain one.

The step is that of training: forward and backward pass of a vision transformer, clipping, AdamW. It is plain, or has
a penalty on the squared distance of features (L2) or on latents (SAE-FT, four latents per dimension); frozen features
come from a frozen copy of the encoder (live) or from memory (cached). Penalties on change outside the active atoms
(off-support) and on forbidden latents (selective, a tenth of them) are compared with SAE-FT. All take a step in turn
on the same batch; ratios are medians over rounds of those within a round. On a CPU the transformer has width 384, 6
blocks and 37 tokens, batch 16; on a GPU, where there is one, it is ViT-B/16 with batch 64 under bf16 autocast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from amalgam.pipeline.engine.host import threads
from amalgam.tasks.clip.finetuning.anchors import CachedAnchors, anchor
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import frozen
from amalgam.tasks.clip.finetuning.objective import PenalisedCrossEntropy, PenaltyInputs
from amalgam.tasks.clip.finetuning.regulariser import Regulariser
from amalgam.tasks.clip.finetuning.regularisers import L2, NoPenalty, OffSupport, SAEMask, Selective
from amalgam.tasks.clip.zero_shot import Classifier, Head
from amalgam.tasks.data.loading import Batch
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, initial
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.distributed import ALONE
from amalgam.tasks.training.objective import Objective
from amalgam.tasks.training.step import Stepper
from benchmarks.measure import Measure, report, seconds

THREADS, CLASSES, ACTIVE = 2, 100, 16
TRAIN = TrainConfig(optimizer="adamw", learning_rate=1e-5, weight_decay=0.1, clip_norm=1.0)
METHODS = {"L2": L2(), "SAE-FT": SAEMask()}
BOUNDS = {"SAE-FT, cached": 1.05, "SAE-FT, live": 1.36}
PLACES = ("cached", "live")
MASK, MASK_BOUND = "SAE-FT, cached", 1.03


@dataclass(frozen=True)
class Scale:
    """A network and a batch, and how often it is timed."""

    device: str
    vision: Mapping[str, Any]
    width: int
    batch: int
    precision: str
    rounds: int


CPU = Scale("cpu", {"image_size": 96, "layers": 6, "width": 384, "patch_size": 16}, 512, 16, "fp32", 21)
GPU = Scale("cuda", {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}, 512, 64, "bf16", 101)
TINY = Scale("cpu", {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}, 32, 4, "fp32", 1)


def measure(scales: tuple[Scale, ...] = (CPU, GPU)) -> list[Measure]:
    """Milliseconds of a plain step, and how many times as long the others take."""
    with threads(THREADS):
        at_hand = [scale for scale in scales if scale.device == "cpu" or torch.cuda.is_available()]
        return [found for scale in at_hand for found in ratios(scale)]


def ratios(scale: Scale) -> list[Measure]:
    """Of every regulariser, to a plain step."""
    classifier, batch = network(scale), pictures(scale)
    with torch.no_grad():
        cached = CachedAnchors(anchor(classifier, scale.device).encoder(batch.images).float()[None])
    sae = frozen(autoencoder(scale))
    steppers = {"plain": stepper(scale, classifier, FinetuneConfig(regulariser=NoPenalty()), PenaltyInputs(classifier))}
    for name, regulariser in METHODS.items():
        for place, anchors in zip(PLACES, (cached, None), strict=True):
            inputs = PenaltyInputs(anchor(classifier, scale.device), sae, anchors=anchors)
            steppers[f"{name}, {place}"] = stepper(scale, classifier, FinetuneConfig(regulariser=regulariser), inputs)
    inputs = PenaltyInputs(anchor(classifier, scale.device), sae, anchors=cached)
    for name, regulariser in over_mask(scale).items():
        steppers[name] = stepper(scale, classifier, FinetuneConfig(regulariser=regulariser), inputs)
    rounds = [{name: timed(scale, step, batch) for name, step in steppers.items()} for _ in range(scale.rounds + 2)][2:]
    where = f"{scale.device}: "
    found = [Measure(where + "plain step", 1000 * median(each["plain"] for each in rounds), "ms")]
    for name in (f"{method}, {place}" for method in METHODS for place in PLACES):
        ratio = median(each[name] / each["plain"] for each in rounds)
        found.append(Measure(f"{where}{name} anchors, over a plain step", ratio, "x", at_most=BOUNDS.get(name)))
    for name in over_mask(scale):
        ratio = median(each[name] / each[MASK] for each in rounds)
        found.append(Measure(f"{where}{name}, cached anchors, over SAE-FT", ratio, "x", at_most=MASK_BOUND))
    return found


def over_mask(scale: Scale) -> dict[str, Regulariser]:
    """Penalties whose cost is compared with that of SAE-FT."""
    return {"off-support": OffSupport(), "selective": Selective(forbid=tuple(range(0, 4 * scale.width, 10)))}


def stepper(scale: Scale, classifier: Classifier, config: FinetuneConfig, inputs: PenaltyInputs) -> Stepper:
    """What trains a copy of the classifier."""
    train = TRAIN.model_copy(update={"precision": scale.precision})
    own = Classifier(frozen(classifier.encoder), frozen(classifier.head)).requires_grad_(True).train()
    objective = PenalisedCrossEntropy(config, inputs) if config.penalised else Objective()
    return Stepper.of(own, {}, objective, train, ALONE, torch.device(scale.device))


def timed(scale: Scale, step: Stepper, batch: Batch) -> float:
    """Seconds of one step."""
    return seconds(lambda: step(batch, scale.batch, 1, TRAIN.learning_rate))


def network(scale: Scale) -> Classifier:
    """An image tower of random weights and a head."""
    text = {"context_length": 4, "width": 32, "heads": 1, "layers": 1}
    spec = ClipSpec(
        architecture={"embed_dim": scale.width, "vision_cfg": {**scale.vision, "head_width": 64}, "text_cfg": text},
        words=("a",),
    )
    torch.manual_seed(0)
    return Classifier(build_clip(spec).image_tower, Head(scale.width, CLASSES)).to(scale.device)


def pictures(scale: Scale) -> Batch:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(0)
    side = scale.vision["image_size"]
    images = torch.randn(scale.batch, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (scale.batch,), generator=generator)
    return Batch(torch.arange(scale.batch), images.to(scale.device), labels.to(scale.device))


def autoencoder(scale: Scale) -> SparseAutoencoder:
    """Four latents per dimension, of random weights."""
    about = FeatureInfo(width=scale.width, normalised=True, backbone="random")
    info = SAESpec(sparsity=TopK(k=min(ACTIVE, scale.width // 2))).info(about)
    return initial(info, SAETrainConfig(), torch.zeros(scale.width), seed=0).to(scale.device)


if __name__ == "__main__":
    report(__doc__, measure, tiny={"scales": (TINY,)})
