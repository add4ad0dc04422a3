"""The flags of fusion experiments in groups: images, architectures, members, their training, how they are fused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from amalgam.pipeline.experiments.flags import (
    FirstSeed,
    Floats,
    GroupColumn,
    Ints,
    LabelSmoothing,
    Precision,
    Texts,
)
from amalgam.pipeline.experiments.fusion.matching_methods import NAMES, budgets, matching_methods
from amalgam.pipeline.steps.combining.combined import COMBINER_NAMES
from amalgam.pipeline.steps.fusion.activations import StageDtype
from amalgam.pipeline.steps.fusion.rivals import RIVALS, RivalName
from amalgam.tasks.data.catalogue import FOLDER_IMAGE_SIZE, KNOWN, DataSpec
from amalgam.tasks.data.splits import ClassSplit, GeneralSpecialist, Shared, Split
from amalgam.tasks.fusion.methods import Cost, Method, Target
from amalgam.tasks.models.spec import Activation, ModelSpec
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import unknown_name

FITTED_NAMES = tuple(n for n in COMBINER_NAMES if n not in ("mean-logits", "mean-probabilities", "aware-net"))
"""Of combiners; both means have rows of their own, and members of one family have no second tier."""


@dataclass(frozen=True)
class LabelledImages:
    """Which labelled images."""

    data: Annotated[
        str, "Data set: a name such as mnist, torchvision:NAME, npz:PATH, imagefolder:PATH or file.py:FUNCTION."
    ] = "digits"
    image_size: Annotated[int | None, "Side in pixels that images are resized to; default: the data set's own."] = None
    num_classes: Annotated[int | None, "Number of classes of a user-supplied data set."] = None
    channels: Annotated[int, "Channels of a user-supplied data set: 1 for greyscale."] = 3
    group_column: GroupColumn = None

    @property
    def spec(self) -> DataSpec:
        """The data set."""
        return DataSpec(name=self.data, image_size=self.image_size, group_column=self.group_column)


@dataclass(frozen=True)
class Architecture:
    """The architecture of all members."""

    model: Annotated[str, "Network: mlp, vgg11, resnet18, vim2_tiny, timm:NAME, torchvision:NAME or file.py:CLASS."] = (
        "mlp"
    )
    width: Annotated[float | None, "Multiplier of the channels of vgg11 and resnet18."] = None
    widths: Annotated[Ints, "Units of each hidden layer of an mlp."] = ()
    activation: Annotated[Activation | None, "Activation of mlp, vgg11 and resnet18."] = None
    bias: Annotated[bool | None, "Whether layers of mlp, vgg11 and resnet18 have biases."] = None
    batch_norm: Annotated[bool | None, "Whether vgg11 has batch norm."] = None

    def spec(self, images: LabelledImages) -> ModelSpec:
        """The network for those images. Raises ValueError if their classes are not known."""
        chosen = vars(self) | {"widths": self.widths or None}
        options = {name: value for name, value in chosen.items() if name != "model" and value is not None}
        return model_spec(self.model, images.spec, images.num_classes, images.channels, options)


def model_spec(
    name: str, data: DataSpec, num_classes: int | None, channels: int, options: Mapping[str, Any]
) -> ModelSpec:
    """The network of a name for a data set. Raises ValueError if its number of classes is not known."""
    if data.name in KNOWN:
        return ModelSpec(name=name, num_classes=data.num_classes, in_shape=data.in_shape, options=dict(options))
    if num_classes is None:
        raise ValueError(f"give --num-classes: the number of classes of {data.name!r} is unknown until it is read")
    side = data.image_size or FOLDER_IMAGE_SIZE
    return ModelSpec(name=name, num_classes=num_classes, in_shape=(channels, side, side), options=dict(options))


@dataclass(frozen=True)
class Members:
    """Number of members and the data each is trained on."""

    members: Annotated[int, "Networks trained per seed and fused into one."] = 2
    seeds: Annotated[int, "Repetitions with new members and data splits; reports give mean and deviation."] = 3
    first_seed: FirstSeed = 0
    split: Annotated[
        Literal["class_split", "general_specialist", "shared"],
        "Training data of members: class_split gives each a few classes, general_specialist one class to a specialist.",
    ] = "shared"
    other: Annotated[float, "With class_split, fraction of the images of the other classes that a member sees."] = 0.03
    special_class: Annotated[int, "With general_specialist, the specialist's class."] = 4
    validation_share: Annotated[float, "Fraction of the training split held out to choose epochs."] = 0.1

    @property
    def shares(self) -> Split:
        """The split as a value."""
        if self.split == "class_split":
            return ClassSplit(other=self.other)
        return GeneralSpecialist(special_class=self.special_class) if self.split == "general_specialist" else Shared()


@dataclass(frozen=True)
class MemberTraining:
    """How members are trained, beside what all experiments choose."""

    optimizer: Annotated[Literal["adam", "adamw", "sgd"], "Optimiser, as in torch.optim."] = "adam"
    momentum: Annotated[float, "Momentum of sgd."] = 0.0
    schedule: Annotated[Literal["constant", "cosine"], "Learning rate over time, after the warm-up."] = "constant"
    warmup_epochs: Annotated[float, "Epochs in which the learning rate rises from 0."] = 0.0
    label_smoothing: LabelSmoothing = 0.0
    augment: Annotated[Literal["none", "crop_flip"], "Random crops and horizontal flips."] = "none"
    precision: Precision = "fp32"
    clip_norm: Annotated[float | None, "Maximum gradient norm."] = None


@dataclass(frozen=True)
class Matchings:
    """How members are matched and fused."""

    methods: Annotated[Texts, f"How units are matched: {', '.join(NAMES)}, or a user-supplied file.py:Class."] = (
        "Identity",
        "PartialOT",
        "Ward",
        "SpreadPruning",
    )
    alphas: Annotated[Floats, "Fractions of units left unmatched: 0 fuses all, 1 is the ensemble."] = (
        0.0,
        0.2,
        0.4,
        0.5,
        0.6,
        0.8,
        1.0,
    )
    cost: Annotated[Cost, "What the matching cost compares."] = "weights"
    flops: Annotated[
        Texts, "Budgets of FLOPs, as multiples of one member's, such as 1.3x; alphas are chosen per layer."
    ] = ()
    target: Annotated[Target, "Mean of the members that refitted and distilled networks approach."] = "logits"
    combiners: Annotated[Texts, f"Ensembles fitted on validation images: {', '.join(FITTED_NAMES)}; or none."] = (
        FITTED_NAMES
    )
    rivals: Annotated[Texts, f"Baselines of one member's size: {', '.join(RIVALS)}; or none."] = RIVALS
    first_weight: Annotated[Floats, "Weights of the first member, one curve each; default: equal weights."] = ()
    probe_rows: Annotated[int, "Unlabelled training images that fusion and distillation may see."] = 1000
    grid: Annotated[int, "Activations of feature maps are stored at grid x grid positions."] = 2
    stage_dtype: Annotated[StageDtype, "Number format of stored activations."] = "float32"

    @property
    def chosen_methods(self) -> tuple[Method, ...]:
        """Every method at every alpha it has, and a budget for each limit."""
        return matching_methods(self.methods, self.alphas, self.cost) + budgets(self.flops, self.cost)

    @property
    def chosen_combiners(self) -> tuple[str, ...]:
        """The combiners as named; none of them for `none`."""
        return () if self.combiners == ("none",) else self.combiners

    @property
    def chosen_rivals(self) -> tuple[RivalName, ...]:
        """The rivals as named; none of them for `none`. Raises ValueError for an unknown name."""
        for name in self.rivals:
            if name not in (*RIVALS, "none"):
                raise unknown_name("rival", name, RIVALS)
        return tuple(name for name in RIVALS if name in self.rivals)


@dataclass(frozen=True)
class Finetuning:
    """How fused networks are trained a little more."""

    finetune_share: Annotated[float, "Fraction of the training split to fine-tune fused networks on; 0 for none."] = 0.0
    finetune_epochs: Annotated[int, "Passes over those images."] = 10
    finetune_learning_rate: Annotated[float | None, "Peak learning rate of fine-tuning; default: that of training."] = (
        None
    )

    def after(self, training: TrainConfig) -> TrainConfig:
        """The training of members, as it is for fused networks."""
        rate = self.finetune_learning_rate or training.learning_rate
        return TrainConfig(
            **{**training.model_dump(), "epochs": self.finetune_epochs, "learning_rate": rate, "warmup_epochs": 0.0}
        )
