"""Robust fine-tuning, whole and offline: a small CLIP is pre-trained, fine-tuned on one style, and tested on thirteen.

Two digits side by side ("four two", 100 classes) are drawn in nine styles with captions, 30 % of them wrong. The CLIP
learns from those; then it is fine-tuned on the plain style alone, by every method on one grid of strengths; then
tested on that style, on the eight others it once saw, on four it never saw, and on what else it knew (naming styles).

    amalgam run clip_styles
    amalgam run mnist_clip_styles --data-root DATA
    amalgam run photo_clip_styles --data-root DATA      # CIFAR-10 and npz:tiny-imagenet-32; for a GPU
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.graph import robust_graph
from amalgam.pipeline.experiments.clip.recipe import AnchorFlag, RobustRecipe
from amalgam.pipeline.experiments.clip.steering import Steering, steered
from amalgam.pipeline.experiments.clip.styled_world import STYLE_ROLES, SAESeeds, SAESetting, SmallWorld, finetuning
from amalgam.pipeline.experiments.clip.variants import Methods
from amalgam.pipeline.experiments.flags import Autoencoders, Corruptions, Optimisation, Sweep, Texts, flat, in_words
from amalgam.pipeline.steps.clip.explanation import ExplainConfig
from amalgam.tasks.clip.toy.worlds import World
from amalgam.tasks.explain.vocabulary import Truth, concepts_in

EXPLAINED = ("ft", "sae-mask")


@dataclass(frozen=True)
class Shown:
    """How images are augmented in training, and what is reported of the networks afterwards."""

    augment: Annotated[Literal["none", "shift"], "Augmentation in fine-tuning: none, or small random shifts."] = "none"
    sae_recipe: Annotated[
        Literal["ours", "reference"],
        "Training recipe of autoencoders: ours, or that of the paper's public code (reference).",
    ] = "ours"
    explain: Annotated[
        Texts | None,
        f"Methods to explain, at the middle strength; default: {' and '.join(EXPLAINED)}, if among --methods.",
    ] = None


@flat
def clip_styles(
    *,
    data: SmallWorld = SmallWorld(),
    methods: Methods = ("ft", "l2", "sae-mask"),
    sweep: Sweep = Sweep(),
    natural: Annotated[
        Texts, "Natural test sets of the same classes: npz:usps.npz, or npz:m.npz@0.19 to crop that fraction."
    ] = (),
    corrupted: Corruptions = Corruptions(),
    training: Optimisation = Optimisation(),
    autoencoders: Autoencoders = Autoencoders(),
    sae_seeds: SAESeeds = 1,
    anchors: AnchorFlag = "views",
    steering: Steering = Steering(),
    shown: Shown = Shown(),
) -> Step:
    """Pre-train a small CLIP on many styles, fine-tune it on one, and measure what is lost with each regulariser."""
    if shown.explain is None:
        shown = replace(shown, explain=tuple(variant for variant in EXPLAINED if variant in methods))
    settings, chosen = in_words(locals()), data.chosen()
    explanation = explained_by(chosen)
    rules = steering.rules(explanation.concepts, tuple(chosen.captions.class_words))
    methods, variants = steered(methods, rules)
    setting = SAESetting(autoencoders.k, autoencoders.expansion, shown.sae_recipe)
    return robust_graph(
        RobustRecipe(
            title=f"Fine-tuning a CLIP of {data.world} on one style of nine",
            settings=settings,
            seeds=data.seeds,
            first_seed=data.first_seed,
            seeded=data.images_of(chosen, natural, corrupted),
            class_names=chosen.class_names,
            templates=chosen.captions.class_templates(),
            methods=methods,
            variants=variants,
            **sweep.choices,
            training=finetuning(training, shown.augment),
            anchoring=anchors,
            saes=setting.config(chosen, sae_seeds, autoencoders.sae_epochs),
            sae_roles=STYLE_ROLES,
            explanation=explanation,
            explained=shown.explain or (),
        )
    )


def explained_by(world: World) -> ExplainConfig:
    """A few styles, looked at with the world's own words; which of them images show is known."""
    sources = tuple((style, world.source("test", 1000, style)) for style in world.explained_styles)
    captions = world.captions
    words = (*captions.class_words, *captions.style_words.values())
    return ExplainConfig(
        sources=sources,
        concepts=concepts_in(captions.all(), words),
        truth=Truth(
            of_class=tuple(tuple(name.split()) for name in world.class_names),
            of_domain=tuple((captions.style_words[style],) for style in world.explained_styles),
        ),
    )


STYLE_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist_clip_styles": (
        "clip_styles at full size on MNIST, with all methods, and natural shifts if their files exist.",
        {
            "world": "mnist",
            "test_images": 5000,
            "strengths": (10.0, 30.0, 100.0, 300.0),
            "images": 20_000,
            "validation_share": 0.2,
            "methods": (
                "ft",
                "lp",
                "lp-ft",
                "flyp",
                "l2",
                "l2-sp",
                "ldifs",
                "sae-mask",
                "add-remove",
                "hinge",
                "l2-unlabelled",
            ),
        },
    ),
    "photo_clip_styles": (
        "clip_styles with photos, for a GPU: CIFAR-10, with Tiny ImageNet as other classes.",
        {
            "world": "photos",
            "images": 20_000,
            "validation_share": 0.2,
            "test_images": 8000,
            "epochs": 6,
            "batch_size": 256,
            "learning_rate": 2e-4,
            "k": 16,
            "strengths": (10.0, 30.0, 100.0, 300.0),
        },
    ),
}
"""Name -> what it shows, and the defaults in which it differs from `clip_styles`."""
