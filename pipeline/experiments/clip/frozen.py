"""The steps of one seed before any fine-tuning: what is frozen, its features, its autoencoders, selected latents."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.recipe import RobustRecipe, Seeded
from amalgam.pipeline.experiments.clip.variants import Variant
from amalgam.pipeline.steps.clip.backbones import ZERO_SHOT, ZeroShotConfig
from amalgam.pipeline.steps.clip.features import FEATURES, FeaturesConfig
from amalgam.pipeline.steps.clip.saes import SAES, SAEsConfig
from amalgam.pipeline.steps.clip.selection import SELECTED, Rules, SelectionConfig
from amalgam.tasks.data.sources import Source

Augment = Literal["none", "shift", "resized_crop"]


@dataclass(frozen=True)
class Frozen:
    """What all methods of one seed start from."""

    recipe: RobustRecipe
    seed: int

    @cached_property
    def seeded(self) -> Seeded:
        return self.recipe.seeded(self.seed)

    @cached_property
    def zero_shot(self) -> Step:
        config = ZeroShotConfig(class_names=self.recipe.class_names, templates=self.recipe.templates)
        prices = self.recipe.prices
        return ZERO_SHOT.expecting(5, prices.classifier_bytes)(config, backbone=self.seeded.backbone)

    def saes(self, config: SAEsConfig, mixed: bool = False) -> Step:
        """Autoencoders of the frozen features of labelled images; mixed, of unlabelled ones of other domains too."""
        features = self.clean(self.seeded.labelled.source) + (self.clean(self.unlabelled()) if mixed else ())
        return SAES(config, classifier=self.zero_shot, features=features)

    def clean(self, source: Source) -> tuple[Step, ...]:
        """Frozen features of images as they are."""
        return self._features(source, "none", (0,))

    def anchors(self, source: Source) -> tuple[Step, ...]:
        """Frozen features of every view that fine-tuning sees, shared by all methods and strengths; none if live."""
        training = self.recipe.training
        if self.recipe.anchoring == "live":
            return ()
        if self.recipe.anchoring == "clean" or training.augment == "none":
            return self.clean(source)
        if training.augment == "crop_flip" or training.num_views is None:
            raise ValueError(
                f"features of augmentation {training.augment!r} cannot be cached: choose --anchors live, or another "
                "augmentation"
            )
        return self._features(source, training.augment, tuple(range(training.num_views)))

    def selected(self, variant: Variant, rules: Rules, plain: Step | None = None) -> Step:
        """The latents that fine-tuning forbids and keeps; some rules look at a network that was tuned plainly."""
        labelled = self.seeded.labelled.source if plain else None
        config = SelectionConfig(rules=rules, sae=self.saes_config(variant).first, labelled=labelled)
        others = self.clean(self.seeded.unlabelled) if self.seeded.unlabelled else ()
        features = self.clean(self.seeded.labelled.source)
        inputs = {"classifier": self.zero_shot, "saes": self.saes_of(variant), "backbone": self.seeded.backbone}
        if plain:
            inputs["after"] = plain
        return SELECTED(config, features=features, others=others, **inputs)

    def saes_config(self, variant: Variant) -> SAEsConfig:
        """What autoencoders a method uses."""
        return variant.saes or self.recipe.saes

    def saes_of(self, variant: Variant) -> Step:
        """Autoencoders of a method; latents are selected, as they are explained, with one of all domains there are."""
        mixed = variant.mixed or (variant.rules is not None and self.seeded.unlabelled is not None)
        return self.saes(self.saes_config(variant), mixed)

    def unlabelled(self) -> Source:
        """Unlabelled images. Raises ValueError if there are none."""
        if self.seeded.unlabelled is None:
            raise ValueError("a method penalises drift on unlabelled images: give --anchor-data, or leave it out")
        return self.seeded.unlabelled

    def _features(self, source: Source, augment: Augment, views: tuple[int, ...]) -> tuple[Step, ...]:
        parts, prices = self.recipe.num_parts, self.recipe.prices
        features = FEATURES.expecting(
            prices.features_seconds * len(views) / parts, prices.features_bytes * len(views) // parts
        )
        configs = (
            FeaturesConfig(source=source, augment=augment, views=views, part=part, num_parts=parts)
            for part in range(parts)
        )
        return tuple(features(config, encoder=self.zero_shot) for config in configs)
