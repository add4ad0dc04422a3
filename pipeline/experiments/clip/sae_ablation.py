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
from amalgam.pipeline.experiments.clip.graph import robust_graph
from amalgam.pipeline.experiments.clip.recipe import RobustRecipe
from amalgam.pipeline.experiments.clip.styled_world import (
    SAE_INPUTS,
    SAE_RECIPES,
    STYLE_ROLES,
    SAESeeds,
    SAESetting,
    SmallWorld,
    finetuning,
)
from amalgam.pipeline.experiments.clip.variants import VARIANTS
from amalgam.pipeline.experiments.flags import Autoencoders, Floats, Ints, Optimisation, Sweep, Texts, flat, in_words
from amalgam.pipeline.reports.robustness.config import PLAIN

BASE = "sae-mask"


@flat
def clip_sae_ablation(
    *,
    data: SmallWorld = SmallWorld(),
    autoencoders: Autoencoders = Autoencoders(),
    ks: Annotated[Ints, "Other numbers of active latents to try."] = (2, 8, 16),
    expansions: Annotated[Floats, "Other numbers of latents per dimension to try."] = (2.0, 8.0),
    recipes: Annotated[
        Texts, f"Other training recipes of autoencoders to try, of {', '.join(SAE_RECIPES)}; the base is ours."
    ] = ("reference",),
    inputs: Annotated[
        Texts,
        f"Other features to train autoencoders on (unit: of norm 1), of {', '.join(SAE_INPUTS)}; the base is unit.",
    ] = ("raw",),
    sweep: Sweep = Sweep(strengths=(3.0, 10.0, 30.0, 100.0), alphas=(1.0,)),
    sae_seeds: SAESeeds = 2,
    training: Optimisation = Optimisation(),
) -> Step:
    """Fine-tune one CLIP with SAEs that differ in one setting each; report SAE quality and robustness."""
    settings = in_words(locals())
    chosen, base = data.chosen(), SAESetting(autoencoders.k, autoencoders.expansion)
    tried = one_thing_each(base, ks, expansions, recipes, inputs)
    made = {name: setting.config(chosen, sae_seeds, autoencoders.sae_epochs) for name, setting in tried.items()}
    variants = {PLAIN: VARIANTS[PLAIN]} | {
        name: replace(VARIANTS[BASE], about=_about(tried[name]), saes=saes) for name, saes in made.items()
    }
    return robust_graph(
        RobustRecipe(
            title=f"The autoencoder of SAE-FT, on a CLIP of {data.world}",
            settings=settings,
            seeds=data.seeds,
            first_seed=data.first_seed,
            seeded=data.images_of(chosen),
            class_names=chosen.class_names,
            templates=chosen.captions.class_templates(),
            methods=tuple(variants),
            variants=variants,
            **sweep.choices,
            training=finetuning(training, "none"),
            anchoring="views",
            saes=made[BASE],
            sae_roles=STYLE_ROLES,
        )
    )


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
            raise ValueError(f"{name!r} equals the base or appears twice: give each other setting once")
        found[name] = setting
    return found


def _about(setting: SAESetting) -> str:
    return (
        f"SAE-FT: {setting.k} active latents of {setting.expansion:g} per dimension, trained by the "
        f"recipe {setting.recipe!r} on {setting.inputs} features"
    )
