"""Partial fusion, from training to frontier: one experiment, and recipes that are this experiment with other defaults.

For each seed: train the members in parallel, stage their activations, match them by one sweep over alpha, fuse them at
every alpha with and without recalibration, and evaluate everything on the same test images. One report gathers all.

    amalgam run digits_partial_fusion
    amalgam run mnist_partial_fusion --data-root DATA --seeds 5
    amalgam run partial_fusion --data imagefolder:PATH --num-classes 10 --model timm:resnet18 --image-size 64
"""

from typing import Annotated, Any, Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, Ints, Texts
from amalgam.pipeline.experiments.fusion_graph import Recipe, fusion_graph
from amalgam.pipeline.experiments.matching_methods import NAMES, matching_methods
from amalgam.tasks.data.catalogue import FOLDER_IMAGE_SIZE, KNOWN, DataSpec
from amalgam.tasks.data.splits import ClassSplit, GeneralSpecialist, Shared, Split
from amalgam.tasks.fusion.methods import Cost
from amalgam.tasks.models.spec import Activation, ModelSpec
from amalgam.tasks.training.config import TrainConfig


def partial_fusion(
    *,
    data: Annotated[str, "Data set: a name such as mnist, torchvision:NAME, npz:PATH or imagefolder:PATH."] = "digits",
    image_size: Annotated[int | None, "Side in pixels that images are resized to; default: the data set's own."] = None,
    num_classes: Annotated[int | None, "Classes of a data set that is not known by name."] = None,
    channels: Annotated[int, "Channels of a data set that is not known by name: 1 if its pictures are grey."] = 3,
    split: Annotated[
        Literal["class_split", "general_specialist", "shared"],
        "Who sees what: each member at home in some classes, one without a class and one specialist, or all the same.",
    ] = "shared",
    other: Annotated[float, "Under class_split, share of each foreign class that a member sees."] = 0.03,
    special_class: Annotated[int, "Under general_specialist, the class that only the specialist sees."] = 4,
    model: Annotated[str, "Network: mlp, vgg11, resnet18, timm:NAME or torchvision:NAME."] = "mlp",
    width: Annotated[float | None, "Multiplier of the channels of vgg11 and resnet18."] = None,
    widths: Annotated[Ints, "Units of each hidden layer of an mlp."] = (),
    activation: Annotated[Activation | None, "Activation of mlp, vgg11 and resnet18."] = None,
    bias: Annotated[bool | None, "Whether layers of mlp, vgg11 and resnet18 have biases."] = None,
    batch_norm: Annotated[bool | None, "Whether vgg11 has batch norm."] = None,
    members: Annotated[int, "Networks trained per seed and fused into one."] = 2,
    seeds: Annotated[int, "Repetitions, each with its own members and data shares, for means and deviations."] = 3,
    epochs: Annotated[int, "Passes over each member's training images; validation chooses the one to keep."] = 50,
    batch_size: Annotated[int, "Images per step."] = 64,
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], "Optimiser, as in torch.optim."] = "adam",
    learning_rate: Annotated[float, "Highest learning rate."] = 1e-3,
    weight_decay: Annotated[float, "Weight decay, as in torch.optim."] = 0.0,
    momentum: Annotated[float, "Momentum of sgd."] = 0.0,
    schedule: Annotated[Literal["constant", "cosine"], "Learning rate over time, after the warm-up."] = "constant",
    warmup_epochs: Annotated[float, "Epochs in which the learning rate rises from 0."] = 0.0,
    label_smoothing: Annotated[float, "Share of the target spread over all classes."] = 0.0,
    augment: Annotated[Literal["none", "crop_flip"], "Random shifts and mirror images."] = "none",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], "Number format of training under autocast."] = "fp32",
    clip_norm: Annotated[float | None, "Largest norm of the gradient."] = None,
    validation_share: Annotated[float, "Share of the training split held out to choose epochs by."] = 0.1,
    methods: Annotated[
        Texts, f"How units are matched: {', '.join(NAMES)}, or file.py:Class of your own, at every alpha it has."
    ] = ("Identity", "PartialOT"),
    alphas: Annotated[Floats, "Shares of each layer's units that stay alone: 0 fuses all, 1 is the ensemble."] = (
        0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0,
    ),
    cost: Annotated[Cost, "What makes units similar."] = "weights",
    first_weight: Annotated[Floats, "Weights of the first member, a curve each; default: all weigh the same."] = (),
    probe_rows: Annotated[int, "Unlabelled training images for activations and recalibration."] = 1000,
    grid: Annotated[int, "Feature maps are staged at grid x grid positions."] = 2,
    stage_dtype: Annotated[Literal["float16", "float32"], "How activations are stored."] = "float32",
    finetune_share: Annotated[float, "Share of the training split to fine-tune fused networks on; 0: none."] = 0.0,
    finetune_epochs: Annotated[int, "Passes over those images."] = 10,
    finetune_learning_rate: Annotated[float | None, "Highest learning rate there; default: that of training."] = None,
) -> Step:  # fmt: skip
    """Train members, fuse them at every size from one network to their ensemble, and draw what it cost."""
    data_spec = DataSpec(name=data, image_size=image_size)
    chosen = {
        "width": width,
        "widths": widths or None,
        "activation": activation,
        "bias": bias,
        "batch_norm": batch_norm,
    }
    training = TrainConfig(
        epochs=epochs, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate,
        weight_decay=weight_decay, momentum=momentum, schedule=schedule, warmup_epochs=warmup_epochs,
        label_smoothing=label_smoothing, augment=augment, precision=precision, clip_norm=clip_norm,
    )  # fmt: skip
    later = {"epochs": finetune_epochs, "learning_rate": finetune_learning_rate or learning_rate, "warmup_epochs": 0.0}
    return fusion_graph(
        Recipe(
            data=data_spec, split=_split(split, other, special_class), training=training, members=members, seeds=seeds,
            model=_model(model, data_spec, num_classes, channels, {k: v for k, v in chosen.items() if v is not None}),
            validation_share=validation_share, methods=matching_methods(methods, alphas, cost),
            first_weight=first_weight, probe_rows=probe_rows, grid=grid, stage_dtype=stage_dtype,
            finetune_share=finetune_share,
            finetuning=TrainConfig(**{**training.model_dump(), **later}),
        )
    )  # fmt: skip


def _split(name: str, other: float, special_class: int) -> Split:
    if name == "class_split":
        return ClassSplit(other=other)
    return GeneralSpecialist(special_class=special_class) if name == "general_specialist" else Shared()


def _model(name: str, data: DataSpec, num_classes: int | None, channels: int, options: dict[str, Any]) -> ModelSpec:
    if data.name in KNOWN:
        return ModelSpec(name=name, num_classes=data.num_classes, in_shape=data.in_shape, options=options)
    if num_classes is None:
        raise ValueError(f"give --num-classes: how many classes {data.name!r} has is not known before it is read")
    side = data.image_size or FOLDER_IMAGE_SIZE
    return ModelSpec(name=name, num_classes=num_classes, in_shape=(channels, side, side), options=options)


_CIFAR10 = {
    "data": "cifar10", "batch_size": 128, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4,
    "schedule": "cosine", "augment": "crop_flip", "validation_share": 0.05, "probe_rows": 2000, "seeds": 5,
}  # fmt: skip

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits_partial_fusion": (
        "Four specialists of scikit-learn's 8x8 digits become one network (a minute on two cores).",
        {"split": "class_split", "other": 0.05, "members": 4, "epochs": 60, "probe_rows": 500,
         "alphas": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)},
    ),
    "mnist_partial_fusion": (
        "A general and a specialist MLP on MNIST, as in the paper's Table 1, fine-tuned on 1 % of the images.",
        {"data": "mnist", "split": "general_specialist", "bias": False, "seeds": 5, "validation_share": 0.05,
         "finetune_share": 0.01},
    ),
    "cifar10_vgg11_partial_fusion": (
        "Two VGG11 without batch norm that saw the same CIFAR-10 images.",
        {**_CIFAR10, "model": "vgg11", "learning_rate": 0.05, "epochs": 100, "warmup_epochs": 0.5, "clip_norm": 5.0},
    ),
    "cifar10_resnet18_partial_fusion": (
        "Two ResNet18 on CIFAR-10, each at home in half of the classes (Table 1), fine-tuned on 5 % of the images.",
        {**_CIFAR10, "model": "resnet18", "split": "class_split", "learning_rate": 0.1, "epochs": 200,
         "finetune_share": 0.05, "finetune_epochs": 30, "finetune_learning_rate": 1e-3},
    ),
}  # fmt: skip
"""Name -> what it shows, and the defaults in which it differs from `partial_fusion`."""
