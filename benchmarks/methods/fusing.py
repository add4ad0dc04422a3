"""What fusing costs beside matching: many members, the refit, and a network of blocks.

*Members*: MLPs of three layers of 100 units at alpha 0.2, K = 2, 4, 8: how much longer one more doubling takes.
*Refit*: two ResNet18 at a quarter of the width, on images of CIFAR's size, beside the members' own forward passes.
*Blocks*: an MLP of two members fused at alpha 0.5 and at 1, structured by measured crossover, on batches of 64; beside
the share of the members' time that its operations are of theirs. Seconds of the first two are processor time.
"""

import torch
from torch import nn

from amalgam.pipeline.engine.host import threads
from amalgam.tasks.fusion import PartialOT, Refit, merge, support
from amalgam.tasks.fusion.fusing import calibrated
from amalgam.tasks.fusion.structured import structured
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.tracing.cost import cost_of
from amalgam.tasks.tracing.trace import trace
from benchmarks.measure import Measure, processor_seconds, report, seconds
from benchmarks.methods.fusion import pair

THREADS, ROUNDS = 1, 20


def measure(num_members: int = 8, images: int = 1000, width: float = 0.25, units: int = 512) -> list[Measure]:
    """All three on one thread."""
    with threads(THREADS), torch.no_grad():
        return [*many_members(num_members), *refit_cost(images, width), *blocks(units)]


def mlps(num_members: int, units: int) -> list[nn.Module]:
    """MLPs of three hidden layers on 8 x 8 images."""
    spec = ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8), options={"widths": (units,) * 3})
    return [build(spec, seed).eval() for seed in range(num_members)]


def many_members(most: int) -> list[Measure]:
    """Seconds of one matching, member numbers doubled up to `most`."""
    found: dict[int, float] = {}
    count = 2
    while count <= most:
        members = mlps(count, 100)
        axes, states = trace(members[0], torch.zeros(2, 1, 8, 8)), [member.state_dict() for member in members]
        found[count] = min(processor_seconds(lambda: PartialOT(alpha=0.2)(axes, states)) for _ in range(3))  # noqa: B023
        count *= 2
    measures = [Measure(f"matching of {k} members", value, "s") for k, value in found.items()]
    return [*measures, Measure("twice the members, at the end", found[most] / found[most // 2], "x", at_most=2.5)]


def refit_cost(num_images: int, width: float) -> list[Measure]:
    """Seconds of a refit, and of the forward passes that it cannot do without."""
    members, x = pair(width), torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    axes, states = trace(members[0], x[:2]), [member.state_dict() for member in members]
    couplings, weights = PartialOT(alpha=0.0)(axes, states).couplings(), (0.5, 0.5)
    merged = merge(members, axes, couplings, weights)
    forward = min(processor_seconds(lambda: [member(x) for member in members]) for _ in range(2))
    fitted = processor_seconds(lambda: calibrated(merged, members, axes, couplings, weights, [x], Refit()))
    return [
        Measure(f"forward passes of both members, {num_images} images", forward, "s"),
        Measure("refit of the fused network on them, solves included", fitted, "s"),
        Measure("refit over forward passes", fitted / forward, "x", at_most=3),
    ]


def blocks(units: int, num_images: int = 64, device: str = "cpu") -> list[Measure]:
    """Milliseconds of a fused network of blocks, dense, and of its members."""
    members = [member.to(device) for member in mlps(2, units)]
    x = torch.randn(num_images, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    axes, states = trace(members[0], x), [member.state_dict() for member in members]
    apart, measures = milliseconds(nn.ModuleList(members), x), list[Measure]()
    flops = sum(cost_of(member, x).flops for member in members)
    for alpha in (0.5, 1.0):
        couplings = PartialOT(alpha=alpha, max_sweeps=0)(axes, states).couplings()  # which units match takes no part
        dense = merge(members, axes, couplings, (0.5, 0.5)).eval()
        share = cost_of(dense, x, support(axes, couplings, dense)).nonzero_flops / flops
        quick = milliseconds(structured(dense, axes, couplings, x), x)
        measures += [
            Measure(f"dense network at alpha {alpha:g}", milliseconds(dense, x), "ms"),
            Measure(f"network of blocks at alpha {alpha:g}", quick, "ms"),
            Measure(
                f"blocks over their share of the members' time, alpha {alpha:g}",
                quick / (share * apart),
                "x",
                at_most=1.1 if alpha == 0.5 else None,
            ),
        ]
    return [Measure("both members", apart, "ms"), *measures]


def milliseconds(network: nn.Module, x: torch.Tensor) -> float:
    """The best of some forward passes; of several networks, one after the other."""
    networks = list(network) if isinstance(network, nn.ModuleList) else [network]
    return 1000 * min(seconds(lambda: [each(x) for each in networks]) for _ in range(ROUNDS))


if __name__ == "__main__":
    report(__doc__, measure, tiny={"num_members": 4, "images": 20, "width": 0.125, "units": 16})
