"""Robust fine-tuning, whole and offline: a small CLIP is pre-trained, fine-tuned on one style, and tested on thirteen.

Two digits side by side ("four two", 100 classes) are drawn in nine styles with captions, 30 % of them wrong. The CLIP
learns from those; then it is fine-tuned on the plain style alone, by every method on one grid of strengths; then
tested on that style, on the eight others it once saw, on four it never saw, and on what else it knew (naming styles).

    amalgam run clip_styles
    amalgam run mnist_clip_styles --data-root DATA
    amalgam run photo_clip_styles --data-root DATA      # CIFAR-10 and npz:tiny-imagenet-32; for a GPU
"""

from typing import Annotated, Any, Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip_variants import WAYS
from amalgam.pipeline.experiments.flags import Floats, Ints, Texts
from amalgam.pipeline.experiments.robust_graph import robust_graph
from amalgam.pipeline.experiments.robust_recipe import Anchoring, RobustRecipe
from amalgam.pipeline.experiments.styled_world import STYLE_ROLES, SAESetting, StyledImages, finetuning, sized_world
from amalgam.pipeline.steps.clip.explanation import ExplainConfig
from amalgam.tasks.data.sources import CORRUPTIONS
from amalgam.tasks.explain.vocabulary import Truth, concepts_in
from amalgam.tasks.toy_clip.worlds import WORLDS, World

EXPLAINED = ("ft", "sae-mask")


def clip_styles(
    *,
    world: Annotated[str, f"What is drawn and which network learns it: {', '.join(WORLDS)}."] = "digits",
    seeds: Annotated[int, "Repetitions, each with its own CLIP, images and order."] = 3,
    methods: Annotated[Texts, f"Ways to fine-tune: {WAYS}."] = ("ft", "l2", "sae-mask"),
    strengths: Annotated[Floats, "The grid of lambda, the same for every method that has one."] = (30.0, 100.0, 300.0),
    alphas: Annotated[Floats, "Shares of the fine-tuned weights in WiSE-FT: 0 is the CLIP before, 1 after."] = (
        0.3, 0.5, 0.7, 1.0,
    ),
    images: Annotated[int, "Labelled images in the style that is tuned on."] = 8000,
    validation_share: Annotated[float, "Share of those held out to choose epoch, strength and alpha by."] = 0.25,
    test_images: Annotated[int, "Test images each: plain, all seen styles, all unseen ones, and so on."] = 4000,
    natural: Annotated[
        Texts, "Others of the same classes to test on: npz:usps.npz, or npz:m.npz@0.19 with that share cut off."
    ] = (),
    corruptions: Annotated[
        Texts, f"Corruptions of the style that is tuned on, to test too: all, or some of {', '.join(CORRUPTIONS)}."
    ] = (),
    severities: Annotated[Ints, "How much to corrupt, from 1 to 5."] = (1, 3, 5),
    pretrain_images: Annotated[int | None, "Pictures that the CLIP learns from; default: those of its world."] = None,
    width: Annotated[int | None, "Channels of the image tower, a multiple of 32; default: those of its world."] = None,
    epochs: Annotated[int, "Passes over the labelled images; validation chooses the one to keep."] = 6,
    batch_size: Annotated[int, "Images per step."] = 128,
    learning_rate: Annotated[float, "Highest learning rate of fine-tuning."] = 5e-4,
    weight_decay: Annotated[float, "Weight decay of fine-tuning."] = 0.1,
    augment: Annotated[
        Literal["none", "shift"], "Whether pictures are shifted a little in training, in ways that are staged too."
    ] = "none",
    k: Annotated[int, "Latents of the sparse autoencoder that each image activates."] = 4,
    expansion: Annotated[float, "Latents per dimension of the features."] = 4.0,
    sae_epochs: Annotated[int, "Passes over the staged features."] = 60,
    sae_seeds: Annotated[int, "Autoencoders trained side by side, to see whether they find the same latents."] = 1,
    sae_recipe: Annotated[
        Literal["ours", "reference"], "How autoencoders are trained: as is usual today, or as the paper's public code."
    ] = "ours",
    anchors: Annotated[Anchoring, "Frozen features: live, staged for every view, or once for clean images."] = "views",
    tolerance: Annotated[float, "Validation accuracy that a stronger hold may cost, as a share."] = 0.01,
    explain: Annotated[
        Texts | None, f"Ways that are explained, at the middle strength; default: {' and '.join(EXPLAINED)}, if tried."
    ] = None,
) -> Step:  # fmt: skip
    """Pre-train a small CLIP on many styles, fine-tune it on one, and see what it lost and what holds it."""
    explain = tuple(way for way in EXPLAINED if way in methods) if explain is None else explain
    settings = {name.replace("_", " "): str(value) for name, value in locals().items()}
    chosen = sized_world(world, pretrain_images, width)
    return robust_graph(
        RobustRecipe(
            title=f"Fine-tuning a CLIP of {world} on one style of nine", settings=settings, seeds=seeds,
            seeded=StyledImages(
                chosen, images, validation_share, test_images, natural, corruptions, severities
            ),
            class_names=chosen.class_names, templates=chosen.captions.class_templates(),
            methods=methods, factors=strengths,
            training=finetuning(epochs, batch_size, learning_rate, weight_decay, augment),
            anchoring=anchors, alphas=alphas, tolerance=tolerance,
            saes=SAESetting(k, expansion, sae_recipe).config(chosen, sae_seeds, sae_epochs), sae_roles=STYLE_ROLES,
            explanation=_explanation(chosen), explained=explain,
        )
    )  # fmt: skip


def _explanation(world: World) -> ExplainConfig:
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


STYLE_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist_clip_styles": (
        "The same at full size on MNIST, with all methods, and natural shifts where their files are there.",
        {"world": "mnist", "test_images": 5000, "strengths": (10.0, 30.0, 100.0, 300.0), "images": 20_000,
         "validation_share": 0.2,
         "methods": ("ft", "lp", "lp-ft", "flyp", "l2", "l2-sp", "ldifs", "sae-mask", "add-remove", "hinge",
                     "l2-unlabelled")},
    ),
    "photo_clip_styles": (
        "The same with photos for a GPU: CIFAR-10, and Tiny ImageNet as what may be forgotten.",
        {"world": "photos", "images": 20_000, "validation_share": 0.2, "test_images": 8000, "epochs": 6,
         "batch_size": 256, "learning_rate": 2e-4, "k": 16, "strengths": (10.0, 30.0, 100.0, 300.0)},
    ),
}  # fmt: skip
"""Name -> what it shows, and the defaults in which it differs from `clip_styles`."""
