"""Partial fusion, from training to frontier: one experiment, and presets that are this experiment with other defaults.

For each seed: train the members in parallel, stage their activations, match them by one sweep over alpha, fuse them at
every alpha with and without recalibration, and evaluate everything on the same test images. One report gathers all.

    amalgam run digits_partial_fusion
    amalgam run mnist_partial_fusion --data-root DATA --seeds 5
    amalgam run partial_fusion --data imagefolder:PATH --num-classes 10 --model timm:resnet18 --image-size 64
"""

from typing import Any

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Optimisation, flat
from amalgam.pipeline.experiments.fusion.choices import (
    Architecture,
    Finetuning,
    LabelledImages,
    Matchings,
    Members,
    MemberTraining,
)
from amalgam.pipeline.experiments.fusion.graph import Recipe, fusion_graph
from amalgam.tasks.training.config import TrainConfig


@flat
def partial_fusion(
    *,
    images: LabelledImages = LabelledImages(),
    architecture: Architecture = Architecture(),
    members: Members = Members(),
    training: Optimisation = Optimisation(epochs=50, batch_size=64, learning_rate=1e-3, weight_decay=0.0),
    training_of_members: MemberTraining = MemberTraining(),
    matchings: Matchings = Matchings(),
    finetuning: Finetuning = Finetuning(),
) -> Step:
    """Train members, fuse them at sizes from one network to their ensemble, and plot accuracy against cost."""
    config = TrainConfig(**vars(training), **vars(training_of_members))
    return fusion_graph(
        Recipe(
            data=images.spec,
            model=architecture.spec(images),
            split=members.shares,
            training=config,
            finetuning=finetuning.after(config),
            members=members.members,
            seeds=members.seeds,
            first_seed=members.first_seed,
            validation_share=members.validation_share,
            first_weight=matchings.first_weight,
            methods=matchings.chosen_methods,
            probe_rows=matchings.probe_rows,
            grid=matchings.grid,
            stage_dtype=matchings.stage_dtype,
            finetune_share=finetuning.finetune_share,
            combiners=matchings.chosen_combiners,
            target=matchings.target,
            rivals=matchings.chosen_rivals,
        )
    )


_CIFAR10 = {
    "data": "cifar10",
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "augment": "crop_flip",
    "validation_share": 0.05,
    "probe_rows": 2000,
    "seeds": 5,
}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits_partial_fusion": (
        "Four specialists of scikit-learn's 8x8 digits become one network (a minute on two cores).",
        {
            "split": "class_split",
            "other": 0.05,
            "members": 4,
            "epochs": 60,
            "probe_rows": 500,
            "alphas": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        },
    ),
    "mnist_partial_fusion": (
        "A general and a specialist MLP on MNIST, as in the paper's Table 1, fine-tuned on 1 % of the images.",
        {
            "data": "mnist",
            "split": "general_specialist",
            "bias": False,
            "seeds": 5,
            "validation_share": 0.05,
            "finetune_share": 0.01,
        },
    ),
    "cifar10_vgg11_partial_fusion": (
        "Two VGG11 without batch norm trained on the same CIFAR-10 images.",
        {**_CIFAR10, "model": "vgg11", "learning_rate": 0.05, "epochs": 100, "warmup_epochs": 0.5, "clip_norm": 5.0},
    ),
    "cifar10_resnet18_partial_fusion": (
        "Two ResNet18 on CIFAR-10, each mostly on half of the classes (Table 1), fused, fine-tuned on 5 % of images.",
        {
            **_CIFAR10,
            "model": "resnet18",
            "split": "class_split",
            "learning_rate": 0.1,
            "epochs": 200,
            "finetune_share": 0.05,
            "finetune_epochs": 30,
            "finetune_learning_rate": 1e-3,
        },
    ),
}
"""Name -> what it shows, and the defaults in which it differs from `partial_fusion`."""
