"""Fisher information by gradients of single examples (Matena & Raffel 2022, section 3), and what is often taken for it.

exact      expectation over the network's own classes: `sum_c p_c (d log p_c)^2`, one backward pass per class
sampled    one class drawn from the network's own distribution, unbiased for the above
empirical  the label's class
batch      the square of one gradient of `sum_batch sum_c sqrt(p_c) log p_c`: a common estimator, for comparison only.
           Cross terms of classes and examples stay in it, so that it is not Fisher information for any batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from amalgam.tasks.merging.geometry.bases import Atoms
from amalgam.tasks.merging.statistics.by_layer import ByLayer
from amalgam.tasks.scoring.sums import Sums

Estimator = Literal["exact", "sampled", "empirical", "batch"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
Batches = Iterable[tuple[Tensor, Tensor]]
Gradients = Mapping[str, Tensor]
MOST_NUMBERS = 2**26  # of gradients of single examples in memory at once: 256 MB in single precision


def fisher_sums(module: nn.Module, batches: Batches, estimator: Estimator = "exact", seed: int = 0) -> Sums:
    """Sums over examples of squared gradients of log-probabilities, for every parameter that is trained.

    `batches` are inputs with labels, which only "empirical" reads; `module` gives logits (examples, classes), and is
    run in eval mode. Raises ValueError for another estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    module.eval()
    if estimator == "batch":
        return _batch_squares(module, batches)
    total, generator = Sums(), torch.Generator().manual_seed(seed)
    for inputs, labels in batches:
        if (fast := ByLayer.passed(module, inputs)) is not None:
            total.add(fast.squares(_classes(fast.logits.detach().softmax(1), labels, estimator, generator)))
            total.count(len(inputs))
            continue
        for gradients, weights, is_first in example_gradients(module, [(inputs, labels)], estimator, generator):
            squares = {name: torch.einsum("b,b...->...", weights, g.square()) for name, g in gradients.items()}
            total.add(squares)
            total.count(len(weights) if is_first else 0)
    return total


def factored(fisher: Gradients) -> dict[str, Tensor]:
    """Row sums followed by column sums of each matrix's Fisher: what its rank-1 approximation needs."""
    return {name: torch.cat([f.sum(1), f.sum(0)]) for name, f in fisher.items() if f.ndim == 2}


def projected_gradients(
    module: nn.Module, batches: Batches, atoms: Mapping[str, Atoms], estimator: Estimator = "exact", seed: int = 0
) -> dict[str, Tensor]:
    """Gradients of single examples in the coordinates of each matrix's atoms, (rows, atoms).

    The mean of the rows' outer products is the projected Fisher; "exact" gives a row for every class of every example.
    """
    module.eval()
    rows: dict[str, list[Tensor]] = {name: [] for name in atoms}
    num_rows = num_examples = 0
    generator = torch.Generator().manual_seed(seed)
    for gradients, weights, is_first in example_gradients(module, batches, estimator, generator):
        num_rows, num_examples = num_rows + len(weights), num_examples + (len(weights) if is_first else 0)
        for name, basis in atoms.items():
            seen = torch.einsum("mp,bmn,np->bp", basis.left.float(), gradients[name], basis.right.float())
            rows[name].append(weights.sqrt()[:, None] * seen)
    raised = (num_rows / max(1, num_examples)) ** 0.5
    return {name: raised * torch.cat(parts) for name, parts in rows.items()}


def example_gradients(
    module: nn.Module, batches: Batches, estimator: Estimator, generator: torch.Generator
) -> Iterator[tuple[dict[str, Tensor], Tensor, bool]]:
    """Gradients (examples, ...) of a class's log-probability, the weight of each, and whether the examples are new."""
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    constants = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    constants |= dict(module.named_buffers())
    most = max(1, MOST_NUMBERS // sum(p.numel() for p in parameters.values()))
    gradients = vmap(grad(_log_probability(module, constants)), in_dims=(None, 0, 0))
    for inputs, labels in batches:
        for x, y in zip(inputs.split(most), labels.split(most), strict=True):
            with torch.no_grad():
                probabilities = module(x).softmax(1)
            for number, (classes, weights) in enumerate(_classes(probabilities, y, estimator, generator)):
                yield gradients(parameters, x, classes), weights, number == 0


def _classes(
    probabilities: Tensor, labels: Tensor, estimator: Estimator, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Which class of every example is differentiated, and what its square weighs."""
    ones = torch.ones(len(labels), dtype=probabilities.dtype)
    if estimator == "empirical":
        yield labels, ones
    elif estimator == "sampled":
        yield torch.multinomial(probabilities, 1, generator=generator).squeeze(1), ones
    else:
        for number in range(probabilities.shape[1]):
            yield torch.full_like(labels, number), probabilities[:, number]


def _log_probability(module: nn.Module, constants: Gradients) -> Callable[[Gradients, Tensor, Tensor], Tensor]:
    def log_probability(parameters: Gradients, x: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(module, {**constants, **parameters}, (x[None],))
        return logits.log_softmax(1)[0].gather(0, label[None])[0]

    return log_probability


def _batch_squares(module: nn.Module, batches: Batches) -> Sums:
    total = Sums()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for inputs, _ in batches:
        logs = module(inputs).log_softmax(1)
        found: Sequence[Tensor] = torch.autograd.grad((logs.exp().sqrt() * logs).sum(), list(trained.values()))
        total.add({name: g.square() for name, g in zip(trained, found, strict=True)})
        total.count(len(inputs))
    return total
