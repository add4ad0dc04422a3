"""Architectures trained from scratch on one data set: ViM2 and what its parts are worth, beside rivals of its size.

amalgam run architectures --data cifar10 --epochs 20 --data-root DATA
"""

from typing import Annotated, Any

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Ints, Optimisation, Texts, flat, in_words, require_some
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.fusion.members import EVALUATION, MEMBER, EvaluationConfig, MemberConfig
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import SampleConfig, Shared, SharedSample, Split
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.models.vim2.sizes import PATCH, vim2_parameters
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import unknown_name

MLP, FIXED = {"channel_mixer": "mlp"}, {"weighted_skips": False}
VIM2: dict[str, dict[str, Any]] = {
    "ViM2": {},
    "ViM2 MLP channels": MLP,
    "ViM2 plain skips": FIXED,
    "ViM2 MLP channels plain skips": MLP | FIXED,
}
"""The ablation that the paper did not do: each part replaced alone, then both together. Names are given on the command
line, separated by commas."""
MIXER = {"token_mixer": "mlp"} | MLP | FIXED
"""MLP-Mixer (Tolstikhin et al. 2021) in ViM2's stages."""
NAMES = (*VIM2, "MLP-Mixer", "ViT")
LEAST_WIDTH = 8
HEADS = 2  # of the ViT: its channels are then even numbers, near enough to every size


@flat
def architectures(
    *,
    data: Annotated[str, "Built-in data set, such as digits or cifar10."] = "digits",
    image_size: Annotated[int | None, "Side in pixels that images are resized to; default: the data set's own."] = None,
    names: Annotated[Texts, f"Architectures to compare; default: {', '.join(NAMES)}."] = (),
    width: Annotated[int, "Channels of ViM2's first stage; the other networks get as many parameters."] = 48,
    depths: Annotated[Ints, "Pairs of mixers in each stage of ViM2."] = (2, 2),
    optimisation: Optimisation = Optimisation(epochs=10, batch_size=64, learning_rate=1e-3, weight_decay=0.05),
    train_images: Annotated[int | None, "Training images, classes in proportion; default: all but validation."] = None,
    validation_share: Annotated[float, "Fraction of the training split held out to choose epochs."] = 0.1,
    seeds: Annotated[int, "Repetitions, each with its own weights, training and validation images."] = 3,
) -> Step:
    """Train ViM2, its ablations, a ViT and an MLP-Mixer of equal parameters; compare accuracy and cost."""
    settings = in_words(locals())
    chosen = names or NAMES
    require_some(names=chosen, seeds=seeds)
    if width < LEAST_WIDTH:
        raise ValueError(f"--width must be at least {LEAST_WIDTH}, so that other networks can be as large, got {width}")
    for name in chosen:
        if name not in NAMES:
            raise unknown_name("architecture", name, NAMES)
    spec = DataSpec(name=data, image_size=image_size)
    training = TrainConfig(
        **vars(optimisation),
        optimizer="adamw",
        schedule="cosine",
        clip_norm=1.0,
    )
    split = Shared() if train_images is None else SharedSample(num_images=train_images)
    models = {name: model_of(name, spec, width, depths) for name in chosen}
    results = tuple(
        _tested(name, model, SampleConfig(data=spec, seed=seed, validation_share=validation_share), split, training)
        for name, model in models.items()
        for seed in range(seeds)
    )
    measures = (
        Measure(name="accuracy", heading="accuracy %", unit="percent"),
        Measure(name="nll", heading="NLL"),
        Measure(name="parameters", heading="M params", unit="millions", deviation=False),
        Measure(name="flops", heading="M FLOPs", unit="millions", deviation=False),
        Measure(name="latency_ms", heading="ms"),
    )
    return COMPARISON(ComparisonConfig(title="Architectures", settings=settings, measures=measures), results=results)


def model_of(name: str, data: DataSpec, width: int, depths: tuple[int, ...]) -> ModelSpec:
    """The network of a name whose parameters are as near in number to those of ViM2 as its width allows."""

    def model(channels: int) -> ModelSpec:
        kind, options = "vim2_tiny", {"width": channels, "depths": depths, "states": 4} | VIM2.get(name, MIXER)
        if name == "ViT":
            kind, options = "timm:vit_tiny_patch16_224", {"img_size": data.in_shape[1], "patch_size": PATCH}
            options |= {"embed_dim": channels, "depth": sum(depths), "num_heads": HEADS}
        return ModelSpec(name=kind, num_classes=data.num_classes, in_shape=data.in_shape, options=options)

    if name in ("ViM2", "ViM2 plain skips"):
        return model(width)  # of one size: coefficients that are not learned are there too
    wanted = num_parameters(model_of("ViM2", data, width, depths))
    return min(map(model, range(HEADS, 8 * width, HEADS)), key=lambda each: abs(num_parameters(each) - wanted))


def num_parameters(model: ModelSpec) -> int:
    """Parameters of a network that `model_of` gives, counted without making it."""
    if model.name == "vim2_tiny":
        return vim2_parameters(model.num_classes, model.in_shape, model.options)
    channels, tokens = model.options["embed_dim"], (model.in_shape[1] // PATCH) ** 2
    # Patches, places, the class token and its place, the last norm, the classifier; of a block 4 d^2 are attention.
    outside = (model.in_shape[0] * PATCH**2 + 1 + tokens + 2 + 2) * channels + (channels + 1) * model.num_classes
    return int(outside + model.options["depth"] * (12 * channels**2 + 13 * channels))


def _tested(name: str, model: ModelSpec, sample: SampleConfig, split: Split, training: TrainConfig) -> Step:
    member = MEMBER(
        MemberConfig(
            sample=sample,
            model=model,
            split=split,
            training=training,
            num_members=1,
            member=0,
            seed=sample.seed,
        )
    )
    return EVALUATION(EvaluationConfig(data=sample.data, seed=sample.seed, name=name), members=(member,))
