"""Fusing at full size: groups of many units, a frontier of budgets, and eight members at one budget.

*Units*: partial transport of 4,096 units onto as many at random distances, half of them matched, and Ward's clusters of
eight members' 512 units, as many as one has. *Frontier*: twenty budgets of two ResNet18 of random weights, each started
from the one before as in a run, and merged. *Eight members*: the same networks fused at twice the operations of one,
everything included; memory is what the process grew by, over the members' weights, themselves among it.

Seconds are processor time of one thread: what it takes on a machine where nothing else is at work.
"""

import resource

import numpy as np
import torch
from torch import nn

from amalgam.pipeline.engine.host import threads
from amalgam.tasks.fusion import Budget, fuse, merge
from amalgam.tasks.fusion.cost import Universe
from amalgam.tasks.fusion.descent.assignment import cheapest_pairs
from amalgam.tasks.fusion.methods.clustering.kernel_means import ward
from amalgam.tasks.tracing.trace import trace
from benchmarks.measure import Measure, processor_seconds, report
from benchmarks.methods.fusion import networks

PEAK_UNIT = 1024  # bytes in which Linux counts ru_maxrss


def measure(width: float = 1.0, units: int = 4096, num_members: int = 8, budgets: int = 20) -> list[Measure]:
    """All of it on one thread."""
    with threads(1), torch.no_grad():
        return [*many_members(width, num_members), *many_units(units), *frontier(width, budgets)]


def many_members(width: float, count: int) -> list[Measure]:
    """Seconds and memory of fusing many members at one budget."""
    x = torch.zeros(2, 3, 32, 32)
    trace(networks(0.125, 1)[0], x)  # what is imported when first called is not the members' memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    members = networks(width, count)
    taken = processor_seconds(lambda: fuse(members, Budget(flops=2.0), x))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * PEAK_UNIT
    return [
        Measure(f"{count} members fused at one budget", taken, "s", at_most=300),
        Measure("memory of that, over the members' weights", grown / sum(map(num_bytes, members)), "x", at_most=4),
    ]


def num_bytes(network: nn.Module) -> int:
    """Bytes of a network's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def many_units(count: int) -> list[Measure]:
    """Seconds of transporting and of clustering units."""
    draw = np.random.default_rng(0)
    distances, points = draw.random((count, count)), torch.from_numpy(draw.normal(size=(count, 64)))
    return [
        Measure(
            f"partial transport of {count} units",
            processor_seconds(lambda: cheapest_pairs(distances, count // 2)),
            "s",
            at_most=10,
        ),
        Measure(
            f"clusters of {count} units",
            processor_seconds(lambda: ward(points @ points.T, count // 8)),
            "s",
            at_most=2,
        ),
    ]


def frontier(width: float, count: int) -> list[Measure]:
    """Seconds of a sweep over budgets, tracing included."""
    members, x = networks(width, 2), torch.zeros(2, 3, 32, 32)

    def sweep() -> None:
        axes, states = trace(members[0], x), [member.state_dict() for member in members]
        budget, start = Budget(flops=1.0).prepared(members[0], x), list[Universe]()
        for flops in np.linspace(1, 2, count):
            limited = budget.model_copy(update={"flops": float(flops)})
            found = limited(axes, states, start=start[-1] if start else None)
            start.append(found.universe)
            merge(members, axes, found.couplings(), (0.5, 0.5))

    return [Measure(f"frontier of {count} budgets", processor_seconds(sweep), "s", at_most=60)]


if __name__ == "__main__":
    report(__doc__, measure, tiny={"width": 0.125, "units": 64, "num_members": 3, "budgets": 2})
