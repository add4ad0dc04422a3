"""What the autoencoder of SAE-FT is worth: fine-tune with autoencoders that differ in one thing each, and compare.

The world, its CLIP and its tests are those of `clip_styles`. The base (4 active latents, 4 latents per dimension,
trained as is usual today on features of norm 1) is the row `sae-mask`; every other row is named for what differs:
`k 8`, `expansion 2`, `reference recipe`, `raw inputs`. All are fine-tuned at every strength. A second table has how
good each autoencoder is on its own: expect more active latents to explain more, and all to explain shifted images
badly.

    amalgam run clip_sae_ablation
    amalgam run clip_sae_ablation --ks 8 --expansions "" --recipes "" --inputs raw      # two rows beside the base
"""

from dataclasses import replace
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip_variants import VARIANTS
from amalgam.pipeline.experiments.flags import Floats, Ints, Texts
from amalgam.pipeline.experiments.robust_graph import robust_graph
from amalgam.pipeline.experiments.robust_recipe import RobustRecipe
from amalgam.pipeline.experiments.styled_world import (
    SAE_INPUTS,
    SAE_RECIPES,
    STYLE_ROLES,
    SAESetting,
    StyledImages,
    finetuning,
    sized_world,
)
from amalgam.pipeline.reports.robustness.config import PLAIN
from amalgam.tasks.toy_clip.worlds import WORLDS

BASE = "sae-mask"


def clip_sae_ablation(
    *,
    world: Annotated[str, f"What is drawn and which network learns it: {', '.join(WORLDS)}."] = "digits",
    seeds: Annotated[int, "Repetitions, each with its own CLIP, images and order."] = 3,
    k: Annotated[int, "Latents that each image activates, in the base."] = 4,
    expansion: Annotated[float, "Latents per dimension of the features, in the base."] = 4.0,
    ks: Annotated[Ints, "Other numbers of active latents to try."] = (2, 8, 16),
    expansions: Annotated[Floats, "Other numbers of latents per dimension to try."] = (2.0, 8.0),
    recipes: Annotated[
        Texts, f"Other ways to train autoencoders to try, of {', '.join(SAE_RECIPES)}; the base is ours."
    ] = ("reference",),
    inputs: Annotated[
        Texts, f"Other features to train and to hold to try, of {', '.join(SAE_INPUTS)}; the base is unit."
    ] = ("raw",),
    strengths: Annotated[Floats, "The grid of lambda, the same for all."] = (3.0, 10.0, 30.0, 100.0),
    alphas: Annotated[Floats, "Shares of the fine-tuned weights in WiSE-FT, such as 0.5,1; 1 alone leaves it out."] = (
        1.0,
    ),
    sae_epochs: Annotated[int, "Passes over the staged features."] = 60,
    sae_seeds: Annotated[int, "Autoencoders of each kind; fine-tuning uses the first, quality is their mean."] = 2,
    images: Annotated[int, "Labelled images in the style that is tuned on."] = 8000,
    validation_share: Annotated[float, "Share of those held out to choose epoch, strength and alpha by."] = 0.25,
    test_images: Annotated[int, "Test images each: plain, all seen styles, all unseen ones, and so on."] = 4000,
    pretrain_images: Annotated[int | None, "Pictures that the CLIP learns from; default: those of its world."] = None,
    width: Annotated[int | None, "Channels of the image tower, a multiple of 32; default: those of its world."] = None,
    epochs: Annotated[int, "Passes over the labelled images; validation chooses the one to keep."] = 6,
    batch_size: Annotated[int, "Images per step."] = 128,
    learning_rate: Annotated[float, "Highest learning rate of fine-tuning."] = 5e-4,
    weight_decay: Annotated[float, "Weight decay of fine-tuning."] = 0.1,
    tolerance: Annotated[float, "Validation accuracy that a stronger hold may cost, as a share."] = 0.01,
) -> Step:
    """Fine-tune one CLIP with autoencoders that differ in one thing each, and see how good both come out."""
    settings = {name.replace("_", " "): str(value) for name, value in locals().items()}
    chosen, base = sized_world(world, pretrain_images, width), SAESetting(k, expansion)
    tried = one_thing_each(base, ks, expansions, recipes, inputs)
    made = {name: setting.config(chosen, sae_seeds, sae_epochs) for name, setting in tried.items()}
    ways = {PLAIN: VARIANTS[PLAIN]} | {
        name: replace(VARIANTS[BASE], about=_about(tried[name]), saes=saes) for name, saes in made.items()
    }
    return robust_graph(
        RobustRecipe(
            title=f"The autoencoder of SAE-FT, on a CLIP of {world}", settings=settings, seeds=seeds,
            seeded=StyledImages(chosen, images, validation_share, test_images),
            class_names=chosen.class_names, templates=chosen.captions.class_templates(),
            methods=tuple(ways), ways=ways, factors=strengths,
            training=finetuning(epochs, batch_size, learning_rate, weight_decay, "none"),
            anchoring="views", alphas=alphas, tolerance=tolerance, saes=made[BASE], sae_roles=STYLE_ROLES,
        )
    )  # fmt: skip


def one_thing_each(
    base: SAESetting, ks: Ints, expansions: Floats, recipes: Texts, inputs: Texts
) -> dict[str, SAESetting]:
    """The base, and settings that differ from it in one thing alone, by the names of their rows.

    Raises ValueError for a value that is the base's or is given twice.
    """
    others = (
        *((f"k {k}", replace(base, k=k)) for k in ks),
        *((f"expansion {expansion:g}", replace(base, expansion=expansion)) for expansion in expansions),
        *((f"{recipe} recipe", replace(base, recipe=recipe)) for recipe in recipes),
        *((f"{kind} inputs", replace(base, inputs=kind)) for kind in inputs),
    )
    found = {BASE: base}
    for name, setting in others:
        if setting in found.values():
            raise ValueError(f"{name!r} is there already: give what differs from the base, and give it once")
        found[name] = setting
    return found


def _about(setting: SAESetting) -> str:
    return (
        f"SAE-FT: {setting.k} active latents of {setting.expansion:g} per dimension, trained by the "
        f"recipe {setting.recipe!r} on {setting.inputs} features"
    )
