"""Made-up results of the shape and size that partial fusion gives, for the tests of reports."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def results(num_seeds: int = 3, num_members: int = 4, alphas: tuple[float, ...] = ALPHAS) -> Iterator[dict[str, Any]]:
    """Every network of every seed."""
    weights = (1 / num_members,) * num_members
    for seed in range(num_seeds):
        generator = np.random.default_rng(seed)
        fused = {"seed": seed, "weights": weights}
        for member in range(num_members):
            yield {"role": "member", "member": member, "seed": seed} | measures(generator, 0.74 + 0.02 * member, 1, 1)
        for role in ("logit ensemble", "probability ensemble"):
            yield fused | {"role": role} | measures(generator, 0.95, num_members, num_members)
        for recalibrated in (False, True):
            gain = 0.05 if recalibrated else 0.0
            mark = {"recalibrated": recalibrated}
            yield fused | mark | {"role": "naive", "method": "Identity()"} | measures(generator, 0.62 + gain, 1, 1)
            for alpha in alphas:
                role, method = ("partial fusion", f"PartialOT(alpha={alpha})") if alpha else ("aligned", "Assignment()")
                accuracy = 0.86 + gain * (1 - alpha) + 0.09 * math.sqrt(alpha)
                sparse, dense = 1 + (num_members - 1) * (2 * alpha - alpha**2), (1 + (num_members - 1) * alpha) ** 2
                named = {"role": role, "method": method, "alpha": alpha}
                yield fused | mark | named | measures(generator, accuracy, sparse, dense)


def measures(generator: np.random.Generator, accuracy: float, sparse: float, dense: float) -> dict[str, float]:
    """Scores and costs around an accuracy, for a network of so many members' nonzeros and stored weights."""
    accuracy = float(np.clip(accuracy + generator.normal(scale=0.008), 0, 1))
    scores = {"accuracy": accuracy, "nll": 2 * (1 - accuracy), "calibration_error": (1 - accuracy) / 4}
    costs = {"parameters": 27_000 * dense, "nonzero_parameters": 27_000 * sparse}
    work = {"flops": 54_000 * dense, "nonzero_flops": 54_000 * sparse, "latency_ms": 0.1 * dense}
    classes = {f"accuracy_class_{i}": float(np.clip(accuracy + generator.normal(scale=0.06), 0, 1)) for i in range(10)}
    return scores | costs | work | classes
