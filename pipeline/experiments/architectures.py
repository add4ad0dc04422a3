"""Architectures trained from scratch on one data set: ViM2 and what its parts are worth, beside rivals of its size.

amalgam run architectures --data cifar10 --epochs 20 --data-root DATA
"""

from typing import Annotated, Any

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Ints, Optimisation, Texts, flat, in_words
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.fusion.members import EVALUATION, MEMBER, EvaluationConfig, MemberConfig
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import SampleConfig, Shared
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import unknown_name

MLP, FIXED = {"channel_mixer": "mlp"}, {"weighted_skips": False}
VIM2: dict[str, dict[str, Any]] = {
    "ViM2": {},
    "ViM2, MLP channels": MLP,
    "ViM2, plain skips": FIXED,
    "ViM2, MLP channels, plain skips": MLP | FIXED,
}
"""The ablation that the paper did not do: each part replaced alone, then both together."""
MIXER = {"token_mixer": "mlp"} | MLP | FIXED
NAMES = (*VIM2, "MLP-Mixer", "ViT")
PATCH = 4
HEAD = 24  # channels of a head of the ViT


@flat
def architectures(
    *,
    data: Annotated[str, "Built-in data set, such as digits or cifar10."] = "digits",
    names: Annotated[Texts, f"Architectures to compare; default: {', '.join(NAMES)}."] = (),
    width: Annotated[int, "Channels of the first of ViM2's two stages; the other networks are sized to match."] = 48,
    depths: Annotated[Ints, "Pairs of mixers in each stage of ViM2."] = (2, 2),
    optimisation: Optimisation = Optimisation(epochs=10, batch_size=64, learning_rate=1e-3, weight_decay=0.05),
    seeds: Annotated[int, "Repetitions, each with its own weights and validation images."] = 3,
) -> Step:
    """Train ViM2, its ablations, a ViT and an MLP-Mixer of about its size; compare accuracy and cost."""
    chosen = names or NAMES
    for name in chosen:
        if name not in NAMES:
            raise unknown_name("architecture", name, NAMES)
    spec = DataSpec(name=data)
    training = TrainConfig(
        **vars(optimisation),
        optimizer="adamw",
        schedule="cosine",
        clip_norm=1.0,
    )
    results = tuple(
        _tested(name, model_of(name, spec, width, depths), spec, training, seed)
        for name in chosen
        for seed in range(seeds)
    )
    settings = {"data": data, "width": str(width), "depths": str(depths)} | in_words({"": optimisation})
    measures = (
        Measure(name="accuracy", heading="accuracy %", unit="percent"),
        Measure(name="nll", heading="NLL"),
        Measure(name="parameters", heading="M params", unit="millions", deviation=False),
        Measure(name="flops", heading="M FLOPs", unit="millions", deviation=False),
        Measure(name="latency_ms", heading="ms"),
    )
    return COMPARISON(ComparisonConfig(title="Architectures", settings=settings, measures=measures), results=results)


def model_of(name: str, data: DataSpec, width: int, depths: tuple[int, ...]) -> ModelSpec:
    """The network of a name, about as large as ViM2 of that width and these depths."""
    if name != "ViT":
        options = {"width": width, "depths": depths, "states": 4} | VIM2.get(name, MIXER)
        return ModelSpec(name="vim2_tiny", num_classes=data.num_classes, in_shape=data.in_shape, options=options)
    # A block of a ViT has 12 d^2 weights; a pair of ViM2's mixers about 6 d^2, with d doubled after the first stage.
    channels = HEAD * max(1, round(1.4 * width / HEAD))
    options = {
        "img_size": data.in_shape[1],
        "patch_size": PATCH,
        "embed_dim": channels,
        "depth": sum(depths),
        "num_heads": channels // HEAD,
    }
    return ModelSpec(
        name="timm:vit_tiny_patch16_224", num_classes=data.num_classes, in_shape=data.in_shape, options=options
    )


def _tested(name: str, model: ModelSpec, data: DataSpec, training: TrainConfig, seed: int) -> Step:
    member = MEMBER(
        MemberConfig(
            sample=SampleConfig(data=data, seed=seed),
            model=model,
            split=Shared(),
            training=training,
            num_members=1,
            member=0,
            seed=seed,
        )
    )
    return EVALUATION(EvaluationConfig(data=data, seed=seed, name=name), members=(member,))
