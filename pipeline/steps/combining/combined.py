"""Fit combiners to staged logits of validation images, and test them: on the CPU, without a network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.combining.logits import TEST, VALIDATION
from amalgam.tasks.user_names import unknown_name

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from amalgam.tasks.scoring.combining import Combination, Combiner

COMBINER_NAMES = (
    "mean-logits",
    "mean-probabilities",
    "temperature",
    "fitted-probabilities",
    "fitted-logits",
    "aware-net",
    "entropy-confidence",
    "majority-vote",
)
"""Those of the registry, here without torch."""


class CombinedConfig(Config):
    """Which combiners are fitted to which members."""

    combiners: tuple[str, ...] = Field(min_length=1)
    families: tuple[str, ...] = ()
    """Of each member; "aware-net" is left out where there are fewer than two."""
    seed: int
    """The repetition that the members belong to."""

    @model_validator(mode="after")
    def _combiners_are_known(self) -> "CombinedConfig":
        for name in self.combiners:
            if name not in COMBINER_NAMES:
                raise unknown_name("combiner", name, COMBINER_NAMES)
        return self


def combine_members(config: CombinedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `results.parquet`: test scores of every combiner, what its members cost, and what was fitted.

    What it answers of every test image is kept beside them.
    """
    from amalgam.pipeline.store.measures import keep_answers
    from amalgam.pipeline.store.tables.logits import read_stacked
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.tasks.scoring.logits import score
    from amalgam.tasks.scoring.results import COST, Network, Result

    logits, labels = read_stacked(inputs["logits"], VALIDATION)
    tested, truth = read_stacked(inputs["logits"], TEST)
    costs = _costs(inputs["evaluations"])
    results: list[Result] = []
    metrics, answers = dict[str, float](), dict[Network, "Tensor"]()
    for name, combiner in _combiners(config).items():
        combination = combiner.fit(logits, labels)
        network = Network(kind="ensemble", method=f"{name} ensemble", seed=config.seed)
        answers[network] = combination(tested)
        scores = score(answers[network], truth, tested.shape[2])
        numbers = {TEST: scores, COST: costs, "fitted": _fitted(combination)}
        results += [
            Result(network, role, None, key, value) for role, one in numbers.items() for key, value in one.items()
        ]
        metrics |= {f"test/{metric}@{name}": scores[metric] for metric in ("accuracy", "nll")}
    write_results(results, work.out)
    keep_answers(answers, truth, work.out)
    return metrics


def _combiners(config: CombinedConfig) -> "dict[str, Combiner]":
    from amalgam.tasks.scoring.combining import COMBINERS, AwareNet

    found: dict[str, Combiner] = {}
    for name in config.combiners:
        if COMBINERS[name] is not AwareNet:
            found[name] = COMBINERS[name]()
        elif len(set(config.families)) > 1:
            found[name] = AwareNet(families=config.families)
    return found


def _costs(evaluations: "Sequence[Path]") -> dict[str, float]:
    """What members cost together, from their results."""
    from amalgam.pipeline.store.tables.results import read_results
    from amalgam.tasks.scoring.results import COST

    total: dict[str, float] = {}
    for result in (one for folder in evaluations for one in read_results(folder) if one.role == COST):
        total[result.metric] = total.get(result.metric, 0.0) + result.value
    return total


def _fitted(combination: "Combination") -> dict[str, float]:
    """Weights and temperatures by the place of the member; nothing where none is fitted."""
    from amalgam.tasks.scoring.combining import Mixture

    if not isinstance(combination, Mixture):
        return {}
    named = {"weight": combination.weights, "temperature": combination.temperatures}
    return {f"{name}_{place}": value for name, values in named.items() for place, value in enumerate(values)}


COMBINED = Kind("combined", combine_members, CombinedConfig, expect=Expect(2, 30_000))
