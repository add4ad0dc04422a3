"""Fine-tune a CLIP with real weights on a suite of the literature or on user-supplied images, robustly.

    amalgam plan imagenet_vit_b16 --data-root DATA          # what is missing, or what it would cost
    amalgam run clip_finetune --suite imagefolder:pictures --architecture ViT-B-32 --data-root DATA

Weights are those that open_clip has put on this machine; a message says how to fetch what is missing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.backbone import Backbone, Wording
from amalgam.pipeline.experiments.clip.graph import robust_graph
from amalgam.pipeline.experiments.clip.recipe import AnchorFlag, Prices, RobustRecipe
from amalgam.pipeline.experiments.clip.steering import Steering, steered
from amalgam.pipeline.experiments.clip.tested import IMAGES, MANY_IMAGES, FittedOptimisation, Opened, Tested
from amalgam.pipeline.experiments.clip.variants import Methods
from amalgam.pipeline.experiments.flags import (
    Autoencoders,
    Corruptions,
    FirstSeed,
    LabelSmoothing,
    Precision,
    Sweep,
    flat,
    in_words,
)
from amalgam.pipeline.steps.clip.saes import SAEsConfig
from amalgam.tasks.sae.config import REFERENCE_RECIPE, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.training.config import TrainConfig

FORWARD_TFLOP = {"ViT-B-32": 0.0088, "ViT-B-16": 0.0351, "ViT-L-14": 0.162}  # an image of 224 pixels
STEP = 3  # forward passes that a step of training costs
PAPER_STRENGTHS, PAPER_SAES = (70.0,), REFERENCE_RECIPE


@dataclass(frozen=True)
class LargeTraining:
    """What matters where networks are large."""

    accumulate: Annotated[int, "Gradient accumulation steps per batch."] = 1
    warmup_steps: Annotated[int | None, "Steps in which the learning rate rises; default: 500, or a tenth of all."] = (
        None
    )
    label_smoothing: LabelSmoothing = 0.0
    precision: Precision = "bf16"
    compile: Annotated[bool, "Compile networks with torch.compile before training them."] = False

    def config(self, training: FittedOptimisation, opened: Opened, recipe: str) -> TrainConfig:
        """All of how the classifier is trained; what is not given fits the images, or is that of the paper's recipe."""
        chosen = training.fitted(MANY_IMAGES if recipe == "paper" else opened.num_trained)
        return TrainConfig(
            **vars(chosen),
            accumulate=self.accumulate,
            optimizer="adamw",
            schedule="cosine",
            warmup_steps=opened.warmup_steps(chosen, self.warmup_steps),
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            clip_norm=1.0,
            augment="resized_crop",
            choose_by=opened.suite.choose_by,
        )


RecipeFlag = Annotated[
    Literal["ours", "paper"], "paper: raw features, the reference's SAE training and lambda 70 alone."
]


@flat
def clip_finetune(
    *,
    data_root: Path | None = None,
    tested: Tested,
    corrupted: Corruptions = Corruptions(),
    backbone: Backbone = Backbone(),
    wording: Wording = Wording(),
    seeds: Annotated[int, "Repetitions, each with its own order and held-out images."] = 1,
    first_seed: FirstSeed = 0,
    methods: Methods = ("ft", "l2", "sae-mask"),
    sweep: Sweep = Sweep(strengths=(7.0, 70.0, 700.0), alphas=tuple(step / 10 for step in range(1, 11))),
    training: FittedOptimisation = FittedOptimisation(),
    large: LargeTraining = LargeTraining(),
    autoencoders: Autoencoders = Autoencoders(k=16, sae_epochs=50),
    recipe: RecipeFlag = "ours",
    anchors: AnchorFlag = "views",
    steering: Steering = Steering(),
    parts: Annotated[int, "Shards of the images that are encoded in parallel."] = 1,
    assumed_tflops: Annotated[float, "Assumed speed of a worker in TFLOP/s, for the estimate of `plan`."] = 60.0,
) -> Step:
    """Fine-tune a CLIP on real images with penalties on feature drift; test on shifts and other classes."""
    settings = in_words({name: value for name, value in locals().items() if name != "data_root"})
    opened = tested.opened(backbone, wording, corrupted, data_root)
    config = large.config(training, opened, recipe)
    derived = backbone.derived | opened.derived | _fitted(config)
    methods, variants = steered(methods, steering.named(opened.suite.class_names, opened.suite.templates))
    sweep, saes = _by_recipe(recipe, sweep, autoencoders)
    return robust_graph(
        RobustRecipe(
            title=f"Fine-tuning {backbone.architecture} on {tested.suite}",
            settings=settings | derived,
            derived=derived,
            seeds=seeds,
            first_seed=first_seed,
            seeded=opened,
            class_names=opened.suite.class_names,
            templates=opened.suite.templates,
            methods=methods,
            compare_preparations=True,
            variants=variants,
            **sweep.choices,
            training=config,
            anchoring=anchors,
            num_parts=parts,
            compiled=large.compile,
            saes=saes,
            prices=_prices(tested.suite, backbone, config.epochs, assumed_tflops),
        )
    )


def _fitted(config: TrainConfig) -> dict[str, str]:
    """What follows from the number of images, in words."""
    rate = f"{config.learning_rate:g}"
    return {"warm-up": f"{config.warmup_steps} steps", "epochs": str(config.epochs), "learning rate": rate}


def _by_recipe(recipe: str, sweep: Sweep, autoencoders: Autoencoders) -> tuple[Sweep, SAEsConfig]:
    """The strengths to try and the autoencoders to train."""
    sae = SAESpec(sparsity=TopK(k=autoencoders.k), expansion=autoencoders.expansion)
    if recipe == "paper":
        return replace(sweep, strengths=PAPER_STRENGTHS, strength_form="mean", strength_inputs="own"), SAEsConfig(
            specs=(sae,), training=PAPER_SAES, normalised=False
        )
    return sweep, SAEsConfig(specs=(sae,), training=SAETrainConfig(epochs=autoencoders.sae_epochs))


def _prices(suite: str, backbone: Backbone, epochs: int, tflops: float) -> Prices:
    """Seconds from arithmetic alone; reading pictures can take longer."""
    images = IMAGES.get(suite, 10_000)
    forward = (
        images * FORWARD_TFLOP.get(backbone.architecture, 0.0351) * (backbone.preprocessing.size[0] / 224) ** 2 / tflops
    )
    return Prices(
        classifier_bytes=400_000_000,
        tuning_seconds=STEP * forward * epochs,
        testing_seconds=forward,
        features_seconds=forward,
        features_bytes=images * 512 * 4,
    )


_WILDS = {"epochs": 20, "batch_size": 256, "weight_decay": 0.2}  # as FLYP's and StarFT's public scripts have it
REAL_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenet_vit_b16": (
        "SAE-FT of OpenAI's ViT-B/16 on ImageNet with the paper's settings, tested on five natural shifts.",
        {"suite": "imagenet"},
    ),
    "imagenet_vit_b32": ("The same with ViT-B/32.", {"suite": "imagenet", "architecture": "ViT-B-32"}),
    "imagenet_vit_l14": ("The same with ViT-L/14.", {"suite": "imagenet", "architecture": "ViT-L-14", "k": 24}),
    "iwildcam_vit_b16": ("SAE-FT of ViT-B/16 on WILDS iWildCam.", {"suite": "iwildcam", **_WILDS}),
    "fmow_vit_b16": ("SAE-FT of ViT-B/16 on WILDS FMoW.", {"suite": "fmow", **_WILDS}),
}
"""Name -> what it is, and the defaults in which it differs from `clip_finetune`."""
