"""The graph of a robustness experiment: which steps there are, and which reads which.

backbone -> zero_shot -> features -> saes -> sae_quality (every test set) ----------------------+
                |            |         |                                                        |
                +-> tuned (one per method, strength and seed) -> path (WiSE, every test set) -> robustness report
                                                +-> explanation
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from amalgam.pipeline.engine.kinds import C, Kind
from amalgam.pipeline.engine.step import Inputs, Step
from amalgam.pipeline.experiments.clip.frozen import Frozen
from amalgam.pipeline.experiments.clip.recipe import MEGA, RobustRecipe
from amalgam.pipeline.experiments.clip.variants import Variant
from amalgam.pipeline.reports.robustness.config import PLAIN, RobustnessReportConfig
from amalgam.pipeline.reports.robustness.config import ZERO_SHOT as FROZEN
from amalgam.pipeline.steps.clip.explanation import EXPLANATION
from amalgam.pipeline.steps.clip.path import PATH, PathConfig
from amalgam.pipeline.steps.clip.report import ROBUSTNESS
from amalgam.pipeline.steps.clip.sae_quality import SAE_QUALITY, SAEQualityConfig
from amalgam.pipeline.steps.clip.saes import ChosenSAE
from amalgam.pipeline.steps.clip.tuning import CONTRASTIVE, TUNED, ContrastiveConfig, TunedConfig
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.regulariser import Regulariser
from amalgam.tasks.scoring.results import STRENGTH, Network
from amalgam.tasks.training.config import DFR, JTT
from amalgam.tasks.user_names import source_digest

PRINCIPAL = 16  # directions of PCA, as in the paper's public code


def robust_graph(recipe: RobustRecipe) -> Step:
    """The report of a recipe, and behind it all that it needs."""
    seeds = [OfSeed(recipe, seed) for seed in range(recipe.first_seed, recipe.first_seed + recipe.seeds)]
    config = RobustnessReportConfig(
        title=recipe.title,
        settings=recipe.settings,
        derived=dict(recipe.derived),
        tolerance=recipe.tolerance,
        compare=recipe.compare,
        strength_form=recipe.strength_form,
        about={name: recipe.variant(name).about for name in recipe.methods},
    )
    return ROBUSTNESS(
        config,
        paths=tuple(path for seed in seeds for path in seed.paths(recipe.methods)),
        qualities=tuple(step for seed in seeds for step in seed.qualities()),
        explanations=tuple(seeds[0].explanation(name, seeds) for name in recipe.explained),
    )


class OfSeed(Frozen):
    """The steps of one seed."""

    def qualities(self) -> tuple[Step, ...]:
        """How good all autoencoders are on test sets, in one step; none if none is used, or there is no such set."""
        users = self._users()
        test_sets = tuple(one for one in self.seeded.test_sets if one.role in self.recipe.sae_roles)
        if not users or not test_sets:
            return ()
        named = tuple((name, self.saes_config(variant)) for name, variant in users.items())
        config = SAEQualityConfig(saes=named, test_sets=test_sets, seed=self.seed)
        return (SAE_QUALITY(config, classifier=self.zero_shot, saes=tuple(map(self.saes_of, users.values()))),)

    def paths(self, methods: Sequence[str]) -> Iterator[Step]:
        """Every network of these methods that is tested, with those between it and zero-shot."""
        yield self._path(FROZEN, {}, (), (0.0,))
        for name in methods:
            variant = self.recipe.variant(name)
            for factor in self.recipe.factors if variant.is_swept else (1.0,):
                settings = {STRENGTH: factor * variant.base_strength} if variant.is_swept else {}
                after = self._ingredients() if variant.kind == "soup" else (self.tuned(variant, factor),)
                yield self._path(name, settings, after, self.recipe.alphas)

    def _ingredients(self) -> tuple[Step, ...]:
        """Every network of the sweep that trained everything from the zero-shot one."""
        variants = [variant for variant in map(self.recipe.variant, self.recipe.methods) if variant.kind == "plain"]
        found = [
            self.tuned(variant, f)
            for variant in variants
            for f in (self.recipe.factors if variant.is_swept else (1.0,))
        ]
        if len(found) < 2:
            raise ValueError("a soup is made of two or more fine-tuned networks: add methods or strengths")
        return tuple(found)

    def explanation(self, name: str, seeds: Sequence["OfSeed"]) -> Step:
        """What one fine-tuning method changed, at the strength that the report chooses by validation of all seeds.

        A method that was not tested is explained at the middle of the grid.
        """
        variant, factors, config = self.recipe.variant(name), sorted(self.recipe.factors), self.recipe.explanation
        assert config is not None, "the recipe has checked this"
        if not variant.is_swept or name not in self.recipe.methods:
            factors, seeds = [factors[len(factors) // 2] if variant.is_swept else 1.0], ()
        decisive = [method for method in self.recipe.methods if method in (PLAIN, name)]
        strengths = tuple(factor * variant.base_strength for factor in factors) if variant.is_swept else ()
        named = {
            "sae": self.recipe.saes.first.name,
            "title": f"What {name} changed",
            "identity": Network(kind="classifier", method=name, seed=self.seed),
            "strengths": strengths,
            "tolerance": self.recipe.tolerance,
        }
        return EXPLANATION(
            config.model_copy(update=named),
            before=self.zero_shot,
            after=tuple(self.tuned(variant, factor) for factor in factors),
            # Codes of images unlike those that an autoencoder was trained on explain nothing.
            sae=self.saes(self.recipe.saes, mixed=self.seeded.unlabelled is not None),
            backbone=self.seeded.backbone,
            paths=tuple(path for seed in seeds for path in seed.paths(decisive)),
        )

    def tuned(self, variant: Variant, factor: float = 1.0) -> Step:
        """A classifier after fine-tuning."""
        if variant.kind == "contrastive":
            return self._contrastive()
        finetuning = FinetuneConfig(
            train=self.recipe.training,
            trained="head" if variant.kind == "head" or isinstance(variant.robust, DFR) else "everything",
            regulariser=self._formed(variant.regulariser),
            strength=factor * variant.base_strength,
            anchor_on=variant.anchor_on,
            overlap=variant.overlap,
        )
        config = TunedConfig(
            labelled=self.seeded.labelled,
            finetuning=finetuning,
            seed=self.seed,
            compiled=self.recipe.compiled,
            sae=self.saes_config(variant).first if variant.reads_codes else None,
            components=PRINCIPAL if "basis" in variant.regulariser.needs else None,
            unlabelled=self.seeded.unlabelled if variant.anchor_on != "labelled" else None,
            unit_strengths=self._converts(variant),
            clean_anchors=self.recipe.anchoring == "clean" and self.recipe.training.augment != "none",
            read_by=self._reader,
            robust=variant.robust,
        )
        step = self._priced(TUNED)(config, **self._inputs_of(variant), **self._read_by())
        return replace(step, data=source_digest(type(variant.regulariser)))

    def _converts(self, variant: Variant) -> bool:
        """Whether strengths are for features of norm 1, but the method's autoencoder reads others."""
        reads_raw = variant.reads_codes and not self.saes_config(variant).normalised
        return reads_raw and self.recipe.strength_inputs == "unit"

    def _formed(self, regulariser: Regulariser) -> Regulariser:
        """The same in the form that strengths are given in, if it is in the paper's."""
        if self.recipe.strength_form == "mean" or regulariser.reduction != "reference_mean":
            return regulariser
        return regulariser.model_copy(update={"reduction": "relative_sum"})

    @property
    def _reader(self) -> ChosenSAE | None:
        """The autoencoder that all methods are measured by."""
        return self.recipe.saes.first if self.recipe.uses_saes else None

    def _read_by(self) -> Inputs:
        return {"read_by": self.saes(self.recipe.saes)} if self._reader else {}

    def _inputs_of(self, variant: Variant) -> Inputs:
        """What fine-tuning by this method starts from, and what it penalises drift from."""
        start = self.tuned(replace(variant, kind="head")) if variant.kind == "head first" else self.zero_shot
        inputs: dict[str, Step | tuple[Step, ...]] = {"classifier": start}
        if isinstance(variant.robust, DFR):
            inputs["classifier"] = self.tuned(replace(variant, robust=None))
        if isinstance(variant.robust, JTT):
            training = self.recipe.training.model_copy(update={"epochs": variant.robust.epochs, "warmup_epochs": 0})
            first = replace(self, recipe=replace(self.recipe, training=training))
            inputs["first"] = first.tuned(replace(variant, robust=None))
        if variant.is_penalised and "levels" not in variant.regulariser.needs:
            if variant.anchor_on != "unlabelled":
                inputs["anchors"] = self.anchors(self.seeded.labelled.source)
            if variant.anchor_on != "labelled":
                inputs["unlabelled_anchors"] = self.anchors(self.unlabelled())
        if variant.reads_codes:
            inputs["saes"] = self.saes_of(variant)
        if variant.rules:
            plain = self.tuned(Variant("")) if "added" in variant.rules.groups else None
            inputs["selected"] = self.selected(variant, variant.rules, plain)
        if "basis" in variant.regulariser.needs:
            inputs["features"] = self.clean(self.seeded.labelled.source)
        return inputs

    def _users(self) -> dict[str, Variant]:
        """The methods that use autoencoders by name; of those that use the same ones, the first."""
        found: dict[str, tuple[str, Variant]] = {}
        for name in self.recipe.methods:
            variant = self.recipe.variant(name)
            if variant.reads_codes:
                found.setdefault(self.saes_of(variant).fingerprint, (name, variant))
        return dict(found.values())

    def _contrastive(self) -> Step:
        config = ContrastiveConfig(
            labelled=self.seeded.labelled,
            training=self.recipe.training,
            seed=self.seed,
            class_names=self.recipe.class_names,
            templates=self.recipe.templates,
            read_by=self._reader,
        )
        inputs = {"backbone": self.seeded.backbone, "classifier": self.zero_shot}
        return self._priced(CONTRASTIVE)(config, **inputs, **self._read_by())

    def _priced(self, kind: Kind[C]) -> Kind[C]:
        """Fine-tuning as a step of this kind, at the prices of the experiment."""
        return kind.expecting(self.recipe.prices.tuning_seconds, self.recipe.prices.classifier_bytes)

    def _path(
        self, method: str, settings: Mapping[str, float], after: tuple[Step, ...], alphas: tuple[float, ...]
    ) -> Step:
        config = PathConfig(
            labelled=self.seeded.labelled,
            test_sets=self.seeded.test_sets,
            alphas=alphas,
            choose_by=self.recipe.training.choose_by,
            sae=self._reader,
            compare_preparations=self.recipe.compare_preparations and method == FROZEN,
            identity=Network(kind="classifier", method=method, settings=tuple(settings.items()), seed=self.seed),
        )
        path = PATH.expecting(self.recipe.prices.testing_seconds, MEGA)
        sae = {"sae": self.saes(self.recipe.saes)} if self._reader else {}
        return path(config, before=self.zero_shot, after=after, backbone=self.seeded.backbone, **sae)
