"""Fusing a pair of CIFAR ResNet18, and how much faster that is than plain numpy.

*Full width*: two networks of random weights are traced, matched at seven alphas, each started from the one before as
in a run, and merged at each, on one thread, as a step has. What the tracer imports when first called is counted.
Seconds of these are processor time.
*Yardstick*: `yardsticks/matching.py` and the engine, each from nothing to its fixed point, at one alpha on a network of
a quarter of the width. The two descents visit groups in different orders, so they may end in different optima; how far
apart is measured too.
"""

from collections.abc import Sequence

import torch
from torch import nn

from amalgam.pipeline.engine.host import threads
from amalgam.tasks.fusion import PartialOT, merge
from amalgam.tasks.fusion.cost import Universe
from amalgam.tasks.fusion.descent.costs import costs_of
from amalgam.tasks.fusion.matching import Matching, objective
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.trace import trace
from benchmarks.measure import Measure, processor_seconds, report, seconds
from benchmarks.yardsticks.matching import naive_matching

ALPHAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
THREADS = 1


def measure(width: float = 1.0, naive_width: float = 0.25, naive_alpha: float = 0.4) -> list[Measure]:
    """Seconds of the sweep, and the ratio to the yardstick."""
    with threads(THREADS):
        traced = processor_seconds(lambda: trace(pair(width)[0], torch.zeros(2, 3, 32, 32)))
        fusing = fused(width)
        together = traced + sum(found.value for found in fusing)
        return [
            Measure("trace", traced, "s"),
            *fusing,
            Measure("trace, matchings and merges together", together, "s", at_most=15),
            *yardstick(naive_width, naive_alpha),
        ]


def fused(width: float, device: str = "cpu", matchings: list[Matching] | None = None) -> list[Measure]:
    """Seconds of matching and of merging a pair on a device; the matchings are added to the list, if one is given."""
    found = matchings if matchings is not None else []
    members = [member.to(device) for member in pair(width)]
    axes = trace(members[0], torch.zeros(2, 3, 32, 32, device=device))
    clock = processor_seconds if device == "cpu" else seconds  # a processor also waits for a GPU
    matched = clock(lambda: found.extend(sweep(axes, members)))
    merged = clock(lambda: [merge(members, axes, m.couplings(), (0.5, 0.5)) for m in found])
    counted = f"at {len(ALPHAS)} alphas"
    return [Measure(f"matchings {counted}", matched, "s"), Measure(f"merges {counted}", merged, "s")]


def pair(width: float) -> list[nn.Module]:
    """Two networks that share nothing but their architecture."""
    return networks(width, 2)


def networks(width: float, count: int) -> list[nn.Module]:
    """ResNet18 of random weights."""
    spec = ModelSpec(name="resnet18", num_classes=10, in_shape=(3, 32, 32), options={"width": width})
    return [build(spec, seed).eval() for seed in range(count)]


def sweep(axes: Axes, members: Sequence[nn.Module]) -> list[Matching]:
    """One matching per alpha, each started from the one before."""
    states, matchings = [member.state_dict() for member in members], list[Matching]()
    for alpha in ALPHAS:
        start = matchings[-1].universe if matchings else None
        matchings.append(PartialOT(alpha=alpha)(axes, states, start=start))
    return matchings


def yardstick(width: float, alpha: float) -> list[Measure]:
    """Seconds of the naive solver and of the engine, and the objectives they reach."""
    members = pair(width)
    axes = trace(members[0], torch.zeros(2, 3, 32, 32))
    states = [member.state_dict() for member in members]
    parameters = [{name: p.detach().double().numpy() for name, p in member.named_parameters()} for member in members]
    found: list[Universe] = []
    naive = seconds(lambda: found.append(as_universe(naive_matching(axes, parameters, alpha))))
    # Too short to be timed once: the best of three is what it takes when nothing else is at work.
    ours = min(seconds(lambda: found.append(PartialOT(alpha=alpha)(axes, states).universe)) for _ in range(3))
    reached = [objective(costs_of(axes, states, None, weights=True), universe) for universe in found]
    return [
        Measure(f"naive numpy solver, width {width:g}, alpha {alpha:g}", naive, "s"),
        Measure("the engine on the same pair", ours, "s"),
        Measure("naive solver over engine", naive / ours, "x"),
        Measure("distance of their objectives", abs(reached[1] / reached[0] - 1) * 100, "%", at_most=1),
    ]


def as_universe(pairs: dict) -> Universe:
    """The naive solver's pairs as the engine's type, to be measured by the same objective."""
    slots = {group: torch.from_numpy(found) for group, found in pairs.items()}
    return Universe(slots, {group: found.shape[1] for group, found in slots.items()})


if __name__ == "__main__":
    report(__doc__, measure, tiny={"width": 0.125, "naive_width": 0.125})
