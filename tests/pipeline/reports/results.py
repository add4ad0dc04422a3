"""Made-up results of the shape and size that partial fusion gives, for the tests of reports."""

import math
from collections.abc import Iterator

import numpy as np

from amalgam.tasks.scoring.results import COST, Network, Result

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def results(num_seeds: int = 3, num_members: int = 4, alphas: tuple[float, ...] = ALPHAS) -> Iterator[Result]:
    """Every number of every network of every seed."""
    weights = (1 / num_members,) * num_members
    for seed in range(num_seeds):
        generator = np.random.default_rng(seed)
        for member in range(num_members):
            network = Network(kind="member", method="member", member=member, seed=seed)
            yield from measured(generator, network, 0.74 + 0.02 * member, 1, 1)
        for method in ("logit ensemble", "probability ensemble"):
            network = Network(kind="ensemble", method=method, weights=weights, seed=seed)
            yield from measured(generator, network, 0.95, num_members, num_members)
        for recalibrated in (False, True):
            gain = 0.05 if recalibrated else 0.0
            fused = {"kind": "fused", "weights": weights, "seed": seed, "recalibrated": recalibrated}
            for method in ("Identity", "FirstHalf"):
                yield from measured(generator, Network(**fused, method=method), 0.62 + gain, 1, 1)
            for alpha in alphas:
                accuracy = 0.86 + gain * (1 - alpha) + 0.09 * math.sqrt(alpha)
                sparse, dense = 1 + (num_members - 1) * (2 * alpha - alpha**2), (1 + (num_members - 1) * alpha) ** 2
                network = Network(**fused, method="PartialOT", settings={"alpha": alpha})
                yield from measured(generator, network, accuracy, sparse, dense)


def measured(
    generator: np.random.Generator, network: Network, accuracy: float, sparse: float, dense: float
) -> Iterator[Result]:
    """Scores and costs around an accuracy, for a network of so many members' nonzeros and stored weights."""
    accuracy = float(np.clip(accuracy + generator.normal(scale=0.008), 0, 1))
    scores = {"accuracy": accuracy, "nll": 2 * (1 - accuracy), "calibration_error": (1 - accuracy) / 4}
    scores |= {f"accuracy_class_{i}": float(np.clip(accuracy + generator.normal(scale=0.06), 0, 1)) for i in range(10)}
    costs = {"parameters": 27_000 * dense, "nonzero_parameters": 27_000 * sparse}
    costs |= {"flops": 54_000 * dense, "nonzero_flops": 54_000 * sparse, "latency_ms": 0.1 * dense}
    for role, numbers in (("test", scores), (COST, costs)):
        yield from (Result(network, role, None, metric, value) for metric, value in numbers.items())
