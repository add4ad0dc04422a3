"""A merge for each task: members weighted by how alike they do on a probe (functional similarity, FED-PUB)."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.merging.merged import results_of
from amalgam.tasks.merging.multitask.spec import TaskSpec

NOISE = "noise"
"""Name of the probe."""


class EmbeddingsConfig(Config):
    """Mean outputs of members' encoders on noise."""

    num_rows: int = Field(default=256, ge=1)
    seed: int
    """Draws the noise; that of the members."""


class PersonalConfig(Config):
    """A merge for each task, its temperature chosen on validation images of all."""

    label: str
    temperatures: tuple[float, ...] = Field(min_length=1)
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    validation_share: float
    seed: int
    num_rows: int = Field(default=256, ge=1)
    """Images of each task that batch norms are measured anew on."""


def stage_embeddings(config: EmbeddingsConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `statistics.parquet`: what each encoder gives on average, and the weights that it is of."""
    import torch

    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.pipeline.store.tables.statistics import write_statistics
    from amalgam.tasks.merging.multitask.heads import encoder_state, head_of, inputs_of
    from amalgam.tasks.merging.staged import Statistics, digest

    generator = torch.Generator().manual_seed(config.seed)
    probe = torch.randn(config.num_rows, *read_spec(inputs["members"][0]).in_shape, generator=generator)
    modules = [load_model(folder).eval() for folder in inputs["members"]]
    embeddings = []
    for module in modules:
        with inputs_of(head_of(module)[1]) as seen, torch.no_grad():
            module(probe)
        embeddings.append({NOISE: seen[0].double().mean(0).flatten()})
    models = tuple(digest(encoder_state(module)) for module in modules)
    write_statistics(
        work.out, Statistics(embeddings=tuple(embeddings), models=models), f"{NOISE} {config.num_rows} {config.seed}"
    )
    return {"rows": config.num_rows}


def merge_personally(config: PersonalConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write `results.parquet`: test accuracy of every task's own merge, their mean and the worst."""
    from amalgam.pipeline.steps.merging.bench import Bench
    from amalgam.pipeline.store.measures import recorded
    from amalgam.pipeline.store.tables.statistics import read_statistics
    from amalgam.tasks.merging.merging import merge
    from amalgam.tasks.merging.methods.registry import Average
    from amalgam.tasks.merging.weights.providers import FunctionalSimilarity
    from amalgam.tasks.scoring.results import Network

    bench = Bench.opened(config, inputs, work)
    embeddings = [each[NOISE] for each in read_statistics(bench.staged).checked("embeddings", bench.members).embeddings]
    best, chosen, merges = -1.0, config.temperatures[0], []
    for temperature in config.temperatures:
        rows = FunctionalSimilarity(temperature=temperature)(embeddings)
        states = [merge(None, bench.members, Average(weights=row)) for row in rows]
        accuracies = [bench.validate(state, slice(t, t + 1))[0] for t, state in enumerate(states)]
        reached = sum(accuracies) / len(accuracies)
        if reached > best:
            best, chosen, merges = reached, temperature, states
    accuracies = [bench.test(state, slice(t, t + 1))[0] for t, state in enumerate(merges)]
    found = {"validation_accuracy": best, "temperature": chosen}
    network = Network(kind="fused", method=config.label, seed=config.seed)
    return recorded(results_of(network, [task.name for task in config.tasks], accuracies, found), work.out)


EMBEDDINGS = Kind("probe_embeddings", stage_embeddings, EmbeddingsConfig, expect=Expect(2, 50_000))
PERSONAL = Kind("personal_merges", merge_personally, PersonalConfig, expect=Expect(5, 20_000))
