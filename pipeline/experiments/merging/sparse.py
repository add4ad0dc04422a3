"""Which entries of a base are worth training for a task: BayesTune, Fisher information, magnitude, or any at random.

amalgam run sparse_finetuning
"""

from collections.abc import Iterator
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Floats, Texts, flat
from amalgam.pipeline.experiments.merging.graph import base_step
from amalgam.pipeline.experiments.merging.multi_task import Base
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.merging.sparse import SCORED, SPARSE, Budget, Rule, ScoresConfig, SparseConfig
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.merging.sparse.bayestune import BayesTune
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.user_names import unknown_name

RULES: dict[str, BayesTune | Rule] = {
    "random": "random",
    "magnitude": "magnitude",
    "fisher": "fisher",
    "bayestune": BayesTune(),
    "bayestune-sgld": BayesTune(chain="sgld", rule="sample"),
}
MEASURES = (
    Measure(name="accuracy", heading="task %", unit="percent"),
    Measure(name="base_accuracy", heading="base %", unit="percent"),
    Measure(name="validation_accuracy", heading="validation %", unit="percent"),
    Measure(name="learning_rate", heading="rate", deviation=False),
)


@flat
def sparse_finetuning(
    *,
    start: Base = Base(),
    task: Annotated[str, "Data set, perhaps changed, such as digits+turn1."] = "digits+turn3+inverted",
    seeds: Annotated[int, "Repetitions, each with its own base."] = 3,
    epochs: Annotated[int, "Passes over the task's training images; validation chooses the one to keep."] = 20,
    batch_size: Annotated[int, "Images per step."] = 64,
    learning_rate: Annotated[float, "Peak learning rate of the base, and of full fine-tuning for magnitudes."] = 1e-3,
    learning_rates: Annotated[Floats, "Peak learning rates on the task that validation chooses from."] = (
        1e-3,
        3e-3,
        1e-2,
    ),
    validation_share: Annotated[float, "Fraction of training images held out to choose epochs and rates."] = 0.2,
    shares: Annotated[Floats, "Fractions of the entries that are trained."] = (0.005, 0.05, 0.3),
    rules: Annotated[Texts, f"What chooses them: {', '.join(RULES)}."] = tuple(RULES),
    budget: Annotated[Budget, "Whether the fraction is of the whole network, or of each tensor (layer)."] = "global",
) -> Step:
    """Train a few entries of a base on a task, chosen by several rules, beside full fine-tuning."""
    for rule in rules:
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
    if seeds < 1 or not shares:
        raise ValueError(f"give at least one seed and one share, got {seeds} and {shares}")
    pretraining = TrainConfig(epochs=start.base_epochs, batch_size=batch_size, learning_rate=learning_rate)
    common = {
        "task": TaskSpec.parse(task),
        "training": pretraining.model_copy(update={"epochs": epochs}),
        "validation_share": validation_share,
    }
    tuned = {"base_data": start.data, "learning_rates": learning_rates, "budget": budget}

    def of_seed(seed: int) -> Iterator[Step]:
        base = base_step(start.data, start.spec, pretraining, validation_share, seed)
        yield SPARSE(SparseConfig(label="all entries", share=1.0, seed=seed, **common, **tuned), base=base)
        for rule in rules:
            scores = SCORED(ScoresConfig(by=RULES[rule], seed=seed, **common), base=base)
            for share in shares:
                config = SparseConfig(label=f"{rule} {100 * share:g} %", share=share, seed=seed, **common, **tuned)
                yield SPARSE(config, base=base, scores=scores)

    settings = {"base": str(start), "task": task, "budget": budget, "rates": str(learning_rates), "epochs": str(epochs)}
    results = tuple(step for seed in range(seeds) for step in of_seed(seed))
    title = f"Sparse fine-tuning of a {start.model} of {start.base} on {task}"
    return COMPARISON(ComparisonConfig(title=title, settings=settings, measures=MEASURES), results=results)
