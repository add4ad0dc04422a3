"""What networks from files are worth on the test images, whose classes they know by name, and what they cost."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.pipeline.cli.from_files.members import FirstOutput, Member, Names
from amalgam.tasks.data.images import Images
from amalgam.tasks.fusion import class_union
from amalgam.tasks.scoring.logits import predict, score
from amalgam.tasks.tracing.cost import Cost, cost_of

BATCH_SIZE = 128
TOLERANCE = 0.005  # of an accuracy: what another version of a decoder or of a kernel may change

Row = dict[str, Any]


def outputs_of(network: nn.Module, images: Images, device: str) -> Tensor:
    """The network's outputs on all images, (images, outputs, ...)."""
    return predict(FirstOutput(network), images, torch.arange(len(images)), BATCH_SIZE, device)


def check_accuracies(members: Sequence[Member], rows: Sequence[Row], expected: Sequence[float]) -> None:
    """Raise ValueError unless every member scores what its owner says."""
    for member, row, wanted in zip(members, rows, expected, strict=True):
        if row.get("accuracy") is None or abs(row["accuracy"] - wanted) > TOLERANCE:
            found = f"{row['accuracy']:.4f}" if row.get("accuracy") is not None else "no accuracy"
            raise ValueError(
                f"{member.source} scores {found} on the test images, {wanted:g} is expected: check how images are "
                "prepared (--mean, --std, --image-size, --crop), the order of the classes, and the weights"
            )


def row_of(name: str, outputs: Tensor, names: Names | None, images: Images, cost: Cost, target: Tensor | None) -> Row:
    """Scores and cost of one network; its distance from `target` (relative) where outputs are no classes."""
    if names is None:
        distance = None if target is None else float((outputs - target).norm() / target.norm())
        return {"network": name, "accuracy": None, "distance": distance} | vars(cost)
    found: Row = dict(score(by_class(outputs, names, images.class_names), images.labels, len(images.class_names)))
    found["nll"] = found["nll"] if math.isfinite(found["nll"]) else None  # it does not know every class
    return {"network": name} | found | vars(cost)


def by_class(outputs: Tensor, names: Names, wanted: Names) -> Tensor:
    """(images, wanted): the logits of the wanted classes, minus infinity for those that are not known."""
    if outputs.shape[1] == 1:  # one logit for the second of two classes
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    places = {name: place for place, name in enumerate(names)}
    table = torch.cat([outputs, torch.full_like(outputs[:, :1], -math.inf)], 1)
    return table[:, [places.get(name, -1) for name in wanted]]


def ensemble_of(outputs: Sequence[Tensor], names: Sequence[Names | None], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the members' outputs, class by class over the members that know it."""
    if len(set(names)) == 1:
        return torch.stack([weight * one for weight, one in zip(weights, outputs, strict=True)]).sum(0)
    known = [each for each in names if each is not None]
    whole = torch.stack([by_class(one, each, class_union(known)) for one, each in zip(outputs, known, strict=True)])
    shares = torch.tensor(weights)[:, None, None] * whole.isfinite()
    shares = torch.where(shares.sum(0) > 0, shares, whole.isfinite().to(shares))
    return (shares * whole.nan_to_num(neginf=0.0)).sum(0) / shares.sum(0)


def cost_on(module: nn.Module, example: Tensor) -> Cost:
    """What a network costs; zeros among its parameters are counted as structural."""
    return cost_of(module, example, {name: parameter != 0 for name, parameter in module.named_parameters()})
