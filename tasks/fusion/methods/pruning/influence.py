"""How much a network's prediction depends on each of its units, to first order: what Taylor and Fisher pruning read.

Without unit u the log-likelihood of a label changes by about - sum over positions of h_u d log p(y|x) / d h_u. Labels
are drawn from the network's own prediction, so that unlabelled images are enough and mean squares are the diagonal of
the Fisher information of gates on the units (Theis et al. 2018; Molchanov et al. 2019 with true labels).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import Site, inputs_of, positions_of, sites
from amalgam.tasks.tracing.running import evaluating, hooked, tensors_in

NO_POOLING = 10**9  # positions along a side of a map that are kept as they are


def influences(members: Sequence[nn.Module], axes: Axes, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Group -> (all units, 2): mean absolute and mean square change of the log-likelihood without each unit."""
    each = [influence(member, sites(member, axes), batches) for member in members]
    return {group: torch.cat([one[group] for one in each]) for group in axes.groups}


def influence(member: nn.Module, where: Sequence[Site], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Group -> (units, 2) float64: those of one member, from one forward and backward pass over `batches`.

    Raises ValueError if there are none.
    """
    sums: dict[str, Tensor] = {}
    generator, count = torch.Generator().manual_seed(0), 0
    for batch in batches:
        x = inputs_of(batch)
        count += len(x)
        for group, changes in _changes(member, where, x, generator).items():
            found = torch.stack([changes.abs().sum(0), changes.square().sum(0)], 1)
            sums[group] = sums[group] + found if group in sums else found
    if not count:
        raise ValueError("the influence of units needs at least one calibration batch, got none")
    return {group: total.cpu() / count for group, total in sums.items()}


def _changes(member: nn.Module, where: Sequence[Site], x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Group -> (batch, units): h_u d log p / d h_u, summed over positions, where the group's first layer reads it."""
    read: dict[str, Tensor] = {}

    def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            # Below frozen parameters nothing has a derivative yet.
            read[site.group] = arguments[0] if arguments[0].requires_grad else arguments[0].requires_grad_()

        return take

    handles = [member.get_submodule(site.layer).register_forward_pre_hook(hook(site)) for site in where]
    with hooked(handles), evaluating(member), torch.enable_grad():
        outputs = [z for z in tensors_in(member(x)) if z.is_floating_point()]
        target = torch.stack([_log_likelihood(z, generator) for z in outputs]).sum()
        slopes = torch.autograd.grad(target, [read[s.group] for s in where], allow_unused=True, materialize_grads=True)
    products = {s.group: read[s.group].detach() * slope for s, slope in zip(where, slopes, strict=True)}
    return {s.group: positions_of(products[s.group], s, NO_POOLING).double().sum(2) for s in where}


def _log_likelihood(z: Tensor, generator: torch.Generator) -> Tensor:
    """Of labels drawn from a prediction: classes where it is (batch, classes), else numbers with unit variance."""
    if z.ndim == 2 and z.shape[1] > 1:
        draws = torch.rand(len(z), 1, generator=generator).to(z)
        labels = (z.detach().softmax(1).cumsum(1) < draws).sum(1).clamp_max(z.shape[1] - 1)
        return z.log_softmax(1).gather(1, labels[:, None]).sum()
    noise = torch.randn(z.shape, generator=generator).to(z)
    return -(z - z.detach() - noise).square().sum() / 2
