"""What experiments on a small world of styles share: its images by seed, how it is trained, its autoencoders."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal

from amalgam.pipeline.experiments.clip.recipe import Seeded
from amalgam.pipeline.experiments.flags import Corruptions, FirstSeed, Optimisation, Texts
from amalgam.pipeline.steps.clip.backbones import PRETRAINED, PretrainedConfig
from amalgam.pipeline.steps.clip.saes import SAEsConfig
from amalgam.tasks.clip.testing.test_sets import Role, TestSet, corrupted_sets
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.clip.toy.worlds import World
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.sources import LabelledConfig, MixedStyles, without_held_out
from amalgam.tasks.sae.config import REFERENCE_RECIPE, FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import unknown_name

NATURAL_IMAGES = 5000
STYLE_ROLES: tuple[Role, ...] = ("id", "seen", "unseen")
"""Roles of the test sets on which autoencoders are measured."""
SAE_RECIPES = {"ours": SAETrainConfig(), "reference": REFERENCE_RECIPE}
"""How autoencoders are trained: as is usual today, or as the paper's public code does."""
SAE_INPUTS = {"unit": True, "raw": False}
"""Whether they read features of norm 1, or as the encoder gives them."""


SAESeeds = Annotated[int, "Autoencoders per setting, by seed; fine-tuning uses the first, quality is their mean."]


@dataclass(frozen=True)
class SmallWorld:
    """A small world of styles, and the images of it that are fine-tuned on and tested on."""

    world: Annotated[str, f"Generated images and the CLIP trained on them: {', '.join(WORLDS)}."] = "digits"
    seeds: Annotated[int, "Repetitions, each with its own CLIP, images and order."] = 3
    first_seed: FirstSeed = 0
    images: Annotated[int, "Labelled fine-tuning images."] = 8000
    validation_share: Annotated[float, "Fraction of those held out to choose epoch, strength and alpha."] = 0.25
    test_images: Annotated[int, "Test images of each group: plain, seen styles, unseen styles, ..."] = 4000
    pretrain_images: Annotated[int | None, "Pre-training images; default: set by --world."] = None
    width: Annotated[int | None, "Channels of the image tower, a multiple of 32; default: set by --world."] = None

    def chosen(self) -> World:
        """The world of that name, made smaller or larger. Raises ValueError, with near names, if there is none."""
        if self.world not in WORLDS:
            raise unknown_name("world", self.world, WORLDS)
        return WORLDS[self.world].sized(self.pretrain_images, self.width)

    def images_of(
        self, world: World, natural: Texts = (), corrupted: Corruptions = Corruptions(severities=())
    ) -> "StyledImages":
        """The images of that world by seed."""
        return StyledImages(
            world,
            self.images,
            self.validation_share,
            self.test_images,
            natural,
            corrupted.corruptions,
            corrupted.severities,
        )


def finetuning(chosen: Optimisation, augment: Literal["none", "shift"]) -> TrainConfig:
    """How a small CLIP is fine-tuned."""
    return TrainConfig(
        **vars(chosen),
        optimizer="adamw",
        schedule="cosine",
        warmup_epochs=min(0.5, chosen.epochs / 4),
        clip_norm=1.0,
        augment=augment,
    )


@dataclass(frozen=True)
class SAESetting:
    """How the autoencoders of a small world are made, in the words of flags."""

    k: int
    expansion: float
    recipe: str = "ours"
    inputs: str = "unit"

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("recipe of autoencoders", self.recipe, SAE_RECIPES),
            ("kind of features", self.inputs, SAE_INPUTS),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)

    def config(self, world: World, seeds: int, epochs: int) -> SAEsConfig:
        """One autoencoder for each seed. Raises ValueError for more active latents than there are."""
        if seeds < 1:
            raise ValueError(f"sae-seeds must be at least 1, got {seeds}")
        specs = tuple(SAESpec(sparsity=TopK(k=self.k), expansion=self.expansion, seed=seed) for seed in range(seeds))
        architecture = world.clip.architecture
        assert isinstance(architecture, dict), "a world draws its own network"
        specs[0].info(FeatureInfo(width=architecture["embed_dim"], backbone=""))
        training = SAE_RECIPES[self.recipe].model_copy(update={"epochs": epochs, "batch_size": 1024})
        return SAEsConfig(specs=specs, training=training, normalised=SAE_INPUTS[self.inputs])


@dataclass(frozen=True)
class StyledImages:
    """The CLIP of a world and all images by seed: what is fine-tuned on, and what is tested."""

    world: World
    images: int
    """Labelled ones."""
    validation_share: float
    test_images: int
    """Test images of each role."""
    natural: Texts = ()
    """Sets of other origin, NAME or NAME@MARGIN."""
    corruptions: Texts = ()
    severities: tuple[int, ...] = ()

    def __call__(self, seed: int) -> Seeded:
        """What a seed changes: everything."""
        world = self.world
        labelled = LabelledConfig.separable(
            world.source("finetuning", self.images, seed=seed), self.validation_share, seed
        )
        styles, others = self._styles(seed), world.source("finetuning", self.images, seed=seed + 1000)
        return Seeded(
            backbone=PRETRAINED(PretrainedConfig(world=world, seed=seed)),
            labelled=labelled,
            test_sets=(
                *styles,
                self._forgotten(seed),
                *world.other_classes(self.test_images, seed),
                *corrupted_sets(styles, self.corruptions, self.severities),
                *(self._natural(entry, seed) for entry in self.natural),
            ),
            unlabelled=MixedStyles(pictures=without_held_out(others, labelled), styles=world.seen_styles),
        )

    def _styles(self, seed: int) -> tuple[TestSet, ...]:
        """The style that was fine-tuned on, those that pre-training saw, and those that it did not."""
        world, count = self.world, self.test_images
        plain, *seen = world.seen_styles
        roles = [("id", (plain,)), ("seen", tuple(seen)), ("unseen", world.unseen_styles)]
        return tuple(
            TestSet(name=style, role=role, source=world.source("test", -(-count // len(styles)), style, seed))
            for role, styles in roles
            for style in styles
        )

    def _forgotten(self, seed: int) -> TestSet:
        """What the CLIP could do besides: name the style of a picture."""
        world = self.world
        pictures = world.source("test", self.test_images, seed=seed)
        source = MixedStyles(pictures=pictures, styles=world.seen_styles, label="style")
        names, templates = tuple(world.captions.style_words.values()), world.captions.style_templates(world.class_names)
        return TestSet(name="style_words", role="forgetting", source=source, class_names=names, templates=templates)

    def _natural(self, entry: str, seed: int) -> TestSet:
        """Digits or photos of other origin."""
        name, _, margin = entry.partition("@")
        try:
            share = float(margin or 0)
        except ValueError:
            raise ValueError(f"natural shifts are NAME or NAME@MARGIN, got {entry!r}") from None
        source = self.world.natural(DataSpec(name=name), share, NATURAL_IMAGES, seed)
        return TestSet(name=PurePath(name.rpartition(":")[2]).stem, role="natural", source=source)
