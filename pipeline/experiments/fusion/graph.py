"""The graph of a partial-fusion experiment: which steps there are, and which reads which."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.combining import fitted_combiners
from amalgam.pipeline.experiments.flags import in_words
from amalgam.pipeline.steps.fusion.activations import ACTIVATIONS, ActivationsConfig, StageDtype
from amalgam.pipeline.steps.fusion.fused import FINETUNED, FUSED, FinetunedConfig, FusedConfig
from amalgam.pipeline.steps.fusion.matching import MATCHING, MatchingConfig
from amalgam.pipeline.steps.fusion.members import (
    ENSEMBLE,
    EVALUATION,
    MEMBER,
    EvaluationConfig,
    EvaluationKind,
    MemberConfig,
)
from amalgam.pipeline.steps.fusion.rivals import RIVAL, RivalConfig, RivalName
from amalgam.pipeline.steps.reports import REPORT, ReportConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.splits import ProbeConfig, SampleConfig, Split
from amalgam.tasks.fusion import Method
from amalgam.tasks.fusion.methods import Target
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import source_digest

TREATMENTS: tuple[dict[str, bool], ...] = ({}, {"recalibrated": True}, {"refitted": True})
"""What is done to a merged network: nothing, its statistics measured anew, its layers fitted to the ensemble."""
ENSEMBLES: tuple[EvaluationKind, ...] = ("logit ensemble", "probability ensemble")
MOST_NETWORKS = 10_000


@dataclass(frozen=True)
class Recipe:
    """Everything an experiment on partial fusion may choose."""

    data: DataSpec
    model: ModelSpec
    split: Split
    training: TrainConfig
    finetuning: TrainConfig
    members: int
    seeds: int
    first_seed: int
    methods: tuple[Method, ...]
    first_weight: tuple[float, ...]
    """Weights of member 0, the others sharing the rest equally; empty: equal weights."""
    probe_rows: int
    grid: int
    stage_dtype: StageDtype
    validation_share: float
    rivals: tuple[RivalName, ...]
    """Networks of one member's size, made otherwise, to compare with; their training has the members' settings."""
    combiners: tuple[str, ...]
    """Ensembles fitted on validation images, beside the plain means of logits and of probabilities."""
    target: Target
    """What refitted and distilled networks approach: the mean of members' logits or of their probabilities."""
    finetune_share: float
    """Share of the training split that fused networks are fine-tuned on; 0 leaves that out."""

    def __post_init__(self) -> None:
        for name, least in (("members", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if (networks := self.members * self.seeds) > MOST_NETWORKS:
            raise ValueError(
                f"{self.members} members times {self.seeds} seeds are {networks} networks to train: "
                f"choose fewer, at most {MOST_NETWORKS} in one experiment"
            )
        if bad := [weight for weight in self.first_weight if not 0 <= weight <= 1]:
            raise ValueError(f"first-weight must be between 0 and 1, got {bad[0]}")

    @property
    def weightings(self) -> list[tuple[float, ...]]:
        """The weights of all members, one tuple per curve."""
        equal, rest = (1 / self.members,) * self.members, self.members - 1
        return [(first, *[(1 - first) / rest] * rest) for first in self.first_weight] or [equal]

    @property
    def families(self) -> dict[type[Method], tuple[Method, ...]]:
        """The methods by class: those of one class are a sweep, each started from the one before."""
        kinds = dict.fromkeys(map(type, self.methods))
        return {kind: tuple(method for method in self.methods if type(method) is kind) for kind in kinds}


def fusion_graph(recipe: Recipe) -> Step:
    """The report of a recipe, and behind it all that it needs."""
    results = [
        step for seed in range(recipe.first_seed, recipe.first_seed + recipe.seeds) for step in _of_seed(recipe, seed)
    ]
    config = ReportConfig(
        title=f"Partial fusion of {recipe.members} {recipe.model.name} on {recipe.data.name}",
        settings=in_words({"": recipe}),
    )
    return REPORT(config, results=tuple(results))


def _of_seed(recipe: Recipe, seed: int) -> Iterator[Step]:
    """Everything of one seed that is evaluated on the test split."""
    sample = SampleConfig(data=recipe.data, seed=seed, validation_share=recipe.validation_share)
    members = tuple(_member(recipe, sample, member) for member in range(recipe.members))
    alone = [EvaluationConfig(data=recipe.data, seed=seed, member=index) for index in range(recipe.members)]
    evaluations = [_evaluation(config, (member,)) for config, member in zip(alone, members, strict=True)]
    for config, evaluation, member in zip(alone, evaluations, members, strict=True):
        yield evaluation
        yield from _finetuned(recipe, sample, config, member)
    if recipe.combiners:
        yield fitted_combiners(members, evaluations, [recipe.model.name] * recipe.members, recipe.combiners, seed)
    probe = ProbeConfig(sample=sample, num_rows=recipe.probe_rows)
    matchings = {kind: _matching(recipe, sweep, probe, members) for kind, sweep in recipe.families.items()}
    for weights in recipe.weightings:
        for kind in ENSEMBLES:
            config = EvaluationConfig(data=recipe.data, seed=seed, weights=weights, kind=kind)
            yield _evaluation(config, members)
        for method in recipe.methods:
            for treatment in TREATMENTS:
                fused = FusedConfig(
                    method=method, weights=weights, probe=probe, target=_target(recipe, treatment), **treatment
                )
                yield from _fused(recipe, fused, members, matchings[type(method)])
        yield from _rivals(recipe, probe, weights, members, matchings)


def _member(recipe: Recipe, sample: SampleConfig, member: int) -> Step:
    config = MemberConfig(
        sample=sample,
        model=recipe.model,
        split=recipe.split,
        training=recipe.training,
        num_members=recipe.members,
        member=member,
        seed=sample.seed * recipe.members + member,
    )
    return MEMBER(config)


def _evaluation(config: EvaluationConfig, members: tuple[Step, ...]) -> Step:
    return (EVALUATION if config.kind == "member" else ENSEMBLE)(config, members=members)


def _matching(recipe: Recipe, sweep: tuple[Method, ...], probe: ProbeConfig, members: tuple[Step, ...]) -> Step:
    with_influence = any(method.needs_influence for method in sweep)
    config = ActivationsConfig(probe=probe, grid=recipe.grid, dtype=recipe.stage_dtype, with_influence=with_influence)
    activations = tuple(ACTIVATIONS(config, member=member) for member in members)
    step = MATCHING(MatchingConfig(methods=sweep, model=recipe.model), members=members, activations=activations)
    return replace(step, data=source_digest(type(sweep[0])))


def _fused(recipe: Recipe, config: FusedConfig, members: tuple[Step, ...], matching: Step) -> Iterator[Step]:
    fused = FUSED(config, members=members, matching=matching)
    yield fused
    yield from _finetuned(recipe, config.probe.sample, config, fused)


def _target(recipe: Recipe, treatment: Mapping[str, bool]) -> Target:
    return recipe.target if treatment.get("refitted") else "logits"  # nothing else is fitted to a mean


def _rivals(
    recipe: Recipe,
    probe: ProbeConfig,
    weights: tuple[float, ...],
    members: tuple[Step, ...],
    matchings: Mapping[type[Method], Step],
) -> Iterator[Step]:
    """Networks made otherwise; a start for distillation is the smallest fused network, refitted."""
    for rival in recipe.rivals:
        inputs: dict[str, Step | tuple[Step, ...]] = {"members": members}
        if rival == "distilled from fused":
            smallest = recipe.methods[0]
            config = FusedConfig(method=smallest, weights=weights, probe=probe, refitted=True, target=recipe.target)
            inputs["fused"] = FUSED(config, members=members, matching=matchings[type(smallest)])
        seed = probe.sample.seed * recipe.members
        yield RIVAL(
            RivalConfig(
                rival=rival,
                model=recipe.model,
                probe=probe,
                weights=weights,
                training=recipe.training,
                target=recipe.target,
                seed=seed,
            ),
            **inputs,
        )


def _finetuned(
    recipe: Recipe, sample: SampleConfig, network: EvaluationConfig | FusedConfig, trained: Step
) -> Iterator[Step]:
    if recipe.finetune_share:
        config = FinetunedConfig(
            network=network, sample=sample, share=recipe.finetune_share, training=recipe.finetuning, seed=sample.seed
        )
        yield FINETUNED(config, network=trained)
