"""Federations under several rules: clients with parts of a graph, or images of few classes, merged in rounds.

amalgam run federated                                                       # a built-in graph, a minute
amalgam run federated --graph graphs/cora.npz --clients 10 --rounds 100 --data-root DATA
amalgam run federated --images digits
"""

from collections.abc import Iterator
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Texts
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.merging.federated import FEDERATION, FederationConfig
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.merging.clients.rules import RULES, FedPub, Rule
from amalgam.tasks.user_names import unknown_name

MEASURES = (
    Measure(name="accuracy", heading="accuracy %", unit="percent"),
    Measure(name="last_accuracy", heading="last round %", unit="percent"),
    Measure(name="validation_accuracy", heading="validation %", unit="percent", deviation=False),
    Measure(name="round", heading="round", deviation=False),
)
NAMES = {rule.__name__: rule for rule in RULES}


def federated(
    *,
    graph: Annotated[str | None, "An .npz file under the data root with a graph; default: a built-in one."] = None,
    images: Annotated[str | None, "Labelled images in place of a graph, such as digits."] = None,
    rules: Annotated[Texts, f"Rules of the federation: {', '.join(NAMES)}."] = tuple(NAMES),
    clients: Annotated[int, "Clients."] = 6,
    overlap: Annotated[int, "Clients that share each part of a graph, each with half its nodes; 0 for none."] = 0,
    skew: Annotated[float, "Concentration of classes among image clients: the smaller, the fewer each has."] = 0.3,
    rounds: Annotated[int, "Rounds; validation chooses the one to report."] = 30,
    epochs: Annotated[int, "Passes over a client's data in a round."] = 1,
    learning_rate: Annotated[float, "Of Adam, which every client keeps."] = 0.01,
    width: Annotated[int, "Units of each hidden layer."] = 128,
    temperature: Annotated[float, "Of FedPub: factor on the cosines of mean embeddings."] = 5.0,
    sparsities: Annotated[tuple[float, ...], "Of FedPub: factors on the sizes of masks, a row each."] = (0.0, 1e-3),
    seeds: Annotated[int, "Repetitions, each with its own division of the data."] = 3,
) -> Step:
    """Federated learning by every rule (FedAvg, FED-PUB and others), compared by the clients' accuracy."""
    if graph and images:
        raise ValueError(f"give a graph or images, not both: got {graph} and {images}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    name = f"npz:{graph}" if graph else images
    data = None if name is None else DataSpec(name=name)

    def of_seed(seed: int) -> Iterator[Step]:
        for rule in _rules(rules, temperature, sparsities):
            yield FEDERATION(
                FederationConfig(
                    kind="images" if images else "graph",
                    data=data,
                    rule=rule,
                    clients=clients,
                    overlap=overlap,
                    skew=skew,
                    rounds=rounds,
                    epochs=epochs,
                    learning_rate=learning_rate,
                    width=width,
                    seed=seed,
                )
            )

    settings = {"data": name or "block model", "clients": str(clients), "overlap": str(overlap), "rounds": str(rounds)}
    results = tuple(step for seed in range(seeds) for step in of_seed(seed))
    title = f"{clients} clients on {name or 'a block model'}"
    return COMPARISON(ComparisonConfig(title=title, settings=settings, measures=MEASURES), results=results)


def _rules(names: Texts, temperature: float, sparsities: tuple[float, ...]) -> Iterator[Rule]:
    for name in names:
        if name not in NAMES:
            raise unknown_name("rule", name, NAMES)
        if NAMES[name] is FedPub:
            yield from (FedPub(temperature=temperature, sparsity=sparsity) for sparsity in sparsities)
        else:
            yield NAMES[name]()
