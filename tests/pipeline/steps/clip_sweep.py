"""A whole sweep of fine-tuning on a CLIP that learns nothing: real steps that take no time."""

from amalgam.pipeline.experiments.clip.recipe import RobustRecipe, Seeded
from amalgam.pipeline.steps.clip.backbones import PRETRAINED, PretrainedConfig
from amalgam.pipeline.steps.clip.saes import SAEsConfig
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.clip.toy.networks import small_clip
from amalgam.tasks.data.sources import LabelledConfig, MixedStyles
from amalgam.tasks.sae.config import SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.training.config import TrainConfig

IMAGES, VIEWS = 64, 2
WORLD = WORLDS["digits"].model_copy(
    update={
        "size": 16,
        "clip": small_clip(size=16, patch=8, width=32, layers=1, embed_dim=32),
        "pretraining": WORLDS["digits"].pretraining.model_copy(
            update={"images_per_epoch": 64, "train": TrainConfig(epochs=1, batch_size=32, optimizer="adamw")}
        ),
    }
)


def sweep(**settings) -> RobustRecipe:
    """A recipe of two seconds; `settings` are fields of it."""
    defaults = {
        "title": "A sweep",
        "settings": {},
        "seeded": seeded,
        "seeds": 1,
        "class_names": WORLD.class_names,
        "templates": WORLD.captions.class_templates("plain"),
        "methods": ("ft", "l2", "sae-mask"),
        "factors": (10.0, 100.0),
        "training": TrainConfig(epochs=2, batch_size=16, optimizer="adamw", augment="shift", views=VIEWS),
        "anchoring": "views",
        "alphas": (0.5, 1.0),
        "tolerance": 0.01,
        "saes": autoencoders(),
    }
    return RobustRecipe(**{"first_seed": 0} | defaults | settings)


def autoencoders(**settings) -> SAEsConfig:
    """Two that differ in their seed; `settings` are fields of what trains them."""
    specs = tuple(SAESpec(sparsity=TopK(k=2), seed=seed) for seed in (0, 1))
    return SAEsConfig(**{"specs": specs, "training": SAETrainConfig(epochs=2, batch_size=32)} | settings)


def seeded(seed: int) -> Seeded:
    """One untrained CLIP and a few images."""
    backbone = PRETRAINED(PretrainedConfig(world=WORLD, seed=seed))
    labelled = LabelledConfig.separable(WORLD.source("finetuning", IMAGES), 0.25, seed)
    plain = TestSet(name="plain", role="id", source=WORLD.source("test", 20))
    bold = TestSet(name="bold", role="seen", source=WORLD.source("test", 20, "bold"))
    others = MixedStyles(pictures=WORLD.source("finetuning", IMAGES, seed=1), styles=WORLD.seen_styles)
    return Seeded(backbone=backbone, labelled=labelled, test_sets=(plain, bold), unlabelled=others)
