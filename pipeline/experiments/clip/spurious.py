"""A nuisance that goes with the label in fine-tuning and not at test: styles bound to digits.

    amalgam run spurious_styles --bound 0.95

The pre-trained CLIP of `clip_styles` is fine-tuned on pictures of four styles, each of which nearly always shows its
own quarter of the classes, and tested where every style shows every class: on average, and on the worst of the 16
groups (style of the class, style shown). Criteria are in docs/spurious_styles.md, written before the first run.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.graph import robust_graph
from amalgam.pipeline.experiments.clip.recipe import RobustRecipe, Seeded
from amalgam.pipeline.experiments.clip.styled_world import SAESetting, SmallWorld, finetuning
from amalgam.pipeline.experiments.clip.styles import explained_by
from amalgam.pipeline.experiments.clip.variants import VARIANTS, Methods, Variant
from amalgam.pipeline.experiments.flags import Autoencoders, Optimisation, Sweep, Texts, flat, in_words
from amalgam.pipeline.steps.clip.backbones import PRETRAINED, PretrainedConfig
from amalgam.pipeline.steps.clip.selection import Rules
from amalgam.tasks.clip.finetuning.regularisers import Selective
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.toy.worlds import World
from amalgam.tasks.data.sources import LabelledConfig, MixedStyles, without_held_out

PLAIN_METHODS = ("ft", "lp", "l2", "l2-sp", "ldifs", "sae-mask", "off-support", "group-dro", "jtt", "dfr")
SELECTIVE = ("selective-names", "selective-domains", "selective-added", "selective-unlabelled")


@flat
def spurious_styles(
    *,
    data: SmallWorld = SmallWorld(images=4000),
    bound: Annotated[float, "Share of the fine-tuning images in the style that belongs to their class."] = 0.95,
    styles: Annotated[Texts, "Styles that are bound to classes."] = ("plain", "negative", "colour", "bold"),
    methods: Methods = (*PLAIN_METHODS, *SELECTIVE),
    sweep: Sweep = Sweep(alphas=(0.5, 1.0)),
    training: Optimisation = Optimisation(epochs=4),
    autoencoders: Autoencoders = Autoencoders(),
) -> Step:
    """Fine-tune a small CLIP where styles correlate with classes, and test it where they do not."""
    settings, chosen = in_words(locals()), data.chosen()
    setting = SAESetting(autoencoders.k, autoencoders.expansion)
    return robust_graph(
        RobustRecipe(
            title=f"Fine-tuning where {100 * bound:g} % of the images show the style of their class",
            settings=settings,
            seeds=data.seeds,
            first_seed=data.first_seed,
            seeded=_Bound(chosen, data.images, data.validation_share, data.test_images, bound, styles),
            class_names=chosen.class_names,
            templates=chosen.captions.class_templates(),
            methods=methods,
            variants={**VARIANTS, **_selective(chosen, styles)},
            **sweep.choices,
            training=finetuning(training, "none"),
            anchoring="views",
            saes=setting.config(chosen, 1, autoencoders.sae_epochs),
        )
    )


def _selective(world: World, styles: Texts) -> dict[str, Variant]:
    """Latents forbidden by the names of styles, by what tells styles apart, and by what plain fine-tuning adds."""
    task, plain = tuple(world.captions.class_words), VARIANTS["selective"]
    names = tuple(world.captions.style_words[style] for style in styles)
    concepts = explained_by(world).concepts
    rules = {
        "names": Rules(forbid=names, if_carried=True, concepts=concepts, task=task),
        "domains": Rules(groups=("domains",), concepts=concepts, task=task),
        "added": Rules(groups=("added",), concepts=concepts, task=task),
    }
    found = {
        f"selective-{name}": replace(plain, about=f"latents forbidden by {name}", rules=of)
        for name, of in rules.items()
    }
    return found | {
        "selective-unlabelled": replace(
            plain,
            about="latents forbidden by names, also on unlabelled images of all styles",
            rules=rules["names"],
            anchor_on="both",
        ),
        "selective-growth": replace(
            plain, about="as by names, but others may follow them", regulariser=Selective(), rules=rules["names"]
        ),
    }


@dataclass(frozen=True)
class _Bound:
    """The CLIP of a world and its pictures by seed, in styles that go with classes or do not."""

    world: World
    images: int
    validation_share: float
    test_images: int
    bound: float
    styles: Texts

    def __call__(self, seed: int) -> Seeded:
        world = self.world
        trained = MixedStyles(
            pictures=world.source("finetuning", self.images, seed=seed), styles=self.styles, bound=self.bound
        )
        labelled = LabelledConfig.separable(trained, self.validation_share, seed)
        others = world.source("finetuning", self.images, seed=seed + 1000)
        tests = world.source("test", self.test_images, seed=seed)
        return Seeded(
            backbone=PRETRAINED(PretrainedConfig(world=world, seed=seed)),
            labelled=labelled,
            test_sets=(
                TestSet(
                    name="bound",
                    role="id",
                    source=MixedStyles(pictures=tests, styles=self.styles, bound=self.bound),
                ),
                TestSet(
                    name="independent",
                    role="seen",
                    source=MixedStyles(pictures=tests, styles=self.styles, bound=1 / len(self.styles)),
                    metric="worst_group",
                ),
            ),
            unlabelled=MixedStyles(pictures=without_held_out(others, labelled), styles=self.styles),
        )
