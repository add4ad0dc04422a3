"""Medical imaging: classifiers of a few labelled images, and volumes translated under the supervision of their layers.

amalgam run few_shot --data fashion_mnist --shots 5,10,20,50 --data-root DATA
amalgam run layered_volumes
"""

import math
from dataclasses import dataclass
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, Ints, Texts, flat, in_words, require_some
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.imaging.few_shot import FEW_SHOT, FewShotStepConfig
from amalgam.pipeline.steps.imaging.volumes import VOLUMES, VOLUMES_ENSEMBLE, VolumesConfig
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.imaging.few_shot.config import METHODS, FewShotConfig
from amalgam.tasks.imaging.volumes.config import TranslationConfig
from amalgam.tasks.user_names import unknown_name

OF_VOLUMES = (
    Measure(name="projection_error_layer_1", heading="projection error, layer 1"),
    Measure(name="projection_error_layer_2", heading="layer 2"),
    Measure(name="voxel_error", heading="voxel error"),
    Measure(name="psnr", heading="PSNR dB"),
    Measure(name="ssim", heading="SSIM of projections"),
)
BYTES_PER_WEIGHT = 140  # of the widest level, quadratically: all weights are about 35 times its square
SECONDS_PER_VOXEL = 6e-7  # and channel of the first level, and epoch, on one core


@dataclass(frozen=True)
class Translation:
    """The network that translates, and how long it is trained."""

    epochs: Annotated[int, "Passes over the training volumes."] = 10
    width: Annotated[int, "Channels of the first level of the U-Net, a multiple of 4."] = 8
    levels: Annotated[int, "Levels of the U-Net."] = 3
    window: Annotated[
        Ints, "Size of crops to train on and of windows that outputs are stitched of; default: whole volumes."
    ] = ()

    def config(self, layer_weight: float) -> TranslationConfig:
        """How it is trained with this weight of the layer loss."""
        return TranslationConfig(
            epochs=self.epochs,
            batch_size=2,
            learning_rate=5e-3,
            layer_weight=layer_weight,
            width=self.width,
            levels=self.levels,
            window=self.window or None,
        )


def few_shot(
    *,
    data: Annotated[str, "Data set: a name such as digits or fashion_mnist, npz:PATH, imagefolder:PATH."] = "digits",
    image_size: Annotated[int | None, "Side in pixels that images are resized to; default: the data set's own."] = None,
    shots: Annotated[Ints, "Labelled images of each class, a row for each number."] = (5, 20),
    methods: Annotated[Texts, f"Methods to compare: {', '.join(METHODS)}."] = METHODS,
    seeds: Annotated[int, "Repetitions, each with its own labelled images and weights."] = 3,
    unlabelled: Annotated[int, "Maximum number of unlabelled images."] = 5000,
    epochs: Annotated[int, "Epochs of --steps steps."] = 20,
    steps: Annotated[int, "Steps in an epoch."] = 20,
    width: Annotated[int, "Channels of the first convolution of each network, a multiple of 4."] = 16,
) -> Step:
    """Train classifiers on a few labels: image translation between classes (SPARSE) against simpler baselines."""
    settings = in_words(locals())
    require_some(shots=shots, methods=methods, seeds=seeds)
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    spec = DataSpec(name=data, image_size=image_size)
    results = tuple(
        FEW_SHOT(
            FewShotStepConfig(
                data=spec,
                shots=count,
                unlabelled=unlabelled,
                training=FewShotConfig(method=name, epochs=epochs, steps=steps, width=width),
                seed=seed,
            )
        )
        for count in shots
        for name in methods
        for seed in range(seeds)
    )
    measures = (
        Measure(name="accuracy", heading="accuracy %", unit="percent"),
        Measure(name="accuracy_of_both", heading="with the critic %", unit="percent"),
        Measure(name="nll", heading="NLL"),
        Measure(name="cpu_seconds", heading="CPU s"),
    )
    config = ComparisonConfig(title="A few labelled images", settings=settings, measures=measures)
    return COMPARISON(config, results=results)


@flat
def layered_volumes(
    *,
    data: Annotated[str, "synthetic, or octa500:PATH for volumes in the layout of OCTA-500."] = "synthetic",
    shape: Annotated[Ints, "Depth, height and width of the volumes."] = (16, 32, 32),
    layer_weights: Annotated[Floats, "Weights of the loss on layers' projections; 0 trains on voxels only."] = (
        0.0,
        1.0,
        10.0,
    ),
    num_train: Annotated[int, "Training volumes, at most."] = 24,
    num_test: Annotated[int, "Test volumes, at most."] = 12,
    network: Translation = Translation(),
    seeds: Annotated[int, "Repetitions, each with its own volumes and weights; their mean output is tested too."] = 3,
) -> Step:
    """Translate layered volumes with and without a loss on the projection of each layer (XOCT)."""
    settings = in_words(locals())
    require_some(layer_weights=layer_weights, seeds=seeds)
    for name, sides in (("shape", shape), ("window", network.window or shape)):
        if len(sides) != 3:
            raise ValueError(f"--{name} is depth, height and width, got {sides}")

    def config(weight: float, seed: int) -> VolumesConfig:
        return VolumesConfig(
            data=data,
            shape=shape,
            num_train=num_train,
            num_test=num_test,
            training=network.config(weight),
            seed=seed,
        )

    voxels = num_train * network.epochs * math.prod(network.window or shape) * network.width
    widest = network.width * 2 ** (network.levels - 1)
    kind = VOLUMES.expecting(SECONDS_PER_VOXEL * voxels, BYTES_PER_WEIGHT * widest**2)
    results: list[Step] = []
    for weight in layer_weights:
        members = tuple(kind(config(weight, seed)) for seed in range(seeds))
        results += [*members, *([VOLUMES_ENSEMBLE(config(weight, 0), members=members)] if seeds > 1 else [])]
    report = ComparisonConfig(title="Layered volumes", settings=settings, measures=OF_VOLUMES)
    return COMPARISON(report, results=tuple(results))
