"""Networks in files: checkpoints of a named architecture, exported programs, and folders that Amalgam wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.pipeline.store.checkpoints import PICTURES, load_model, read_pictures, read_spec
from amalgam.pipeline.store.programs import read_program
from amalgam.tasks.models import build
from amalgam.tasks.models.foreign import fitted, read_checkpoint
from amalgam.tasks.models.spec import PROGRAM, ModelSpec
from amalgam.tasks.tracing.running import tensors_in

Names = tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """One network, and what its file says of it."""

    source: str
    module: nn.Module
    spec: ModelSpec
    """What its saved form is built from."""
    class_names: Names | None
    """What its outputs are called; None where they are no classes."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """What checkpoints without an architecture of their own are weights of."""

    model: str | None
    options: dict[str, Any]
    shape: tuple[int, int, int]
    """Of the images they are fed."""


def require_architecture(paths: Sequence[Path], model: str | None) -> None:
    """Raise ValueError if a checkpoint is weights alone and no architecture is named."""
    for path in paths:
        if model is None and not path.is_dir() and path.suffix != PROGRAM:
            raise ValueError(f"give --model: {path} holds weights alone, which do not say what network they are of")


def open_member(path: Path, made: Architecture, names: Names | None, known: Names) -> Member:
    """The network at a path, with the names of its classes: those given, else those it holds itself, else `known`.

    Raises ValueError if the file cannot be read or does not fit the architecture.
    """
    if path.is_dir():
        spec, network = read_spec(path), load_model(path, dense=True)
        if spec.in_shape != made.shape:
            raise ValueError(f"{path} is a network for images of shape {spec.in_shape}, these are {made.shape}")
        own = read_pictures(path).class_names if (path / PICTURES).is_file() else None
        return Member(str(path), network, spec, names or getattr(network, "class_names", own))
    if path.suffix == PROGRAM:
        return Member(str(path), read_program(path), _spec(str(path), made, len(known)), names)
    assert made.model is not None  # checked beforehand
    checkpoint = read_checkpoint(path)
    own = names or checkpoint.class_names
    spec = _spec(made.model, made, len(own or known))
    network = read_program(Path(made.model)) if made.model.endswith(PROGRAM) else build(spec, seed=0)
    found = fitted(network, checkpoint)
    network.load_state_dict(dict(found.state))
    return Member(str(path), network.eval(), spec, own, found.notes)


def named(member: Member, example: Tensor, known: Names) -> Member:
    """The member with the names of its classes, those of the data if it has as many outputs; None for other outputs.

    Raises ValueError if it has another number of outputs than it has names, or than the data have classes.
    """
    with torch.no_grad():
        scores = FirstOutput(member.module)(example)
    outputs = scores.shape[1] if scores.ndim == 2 else 0
    spec = member.spec.model_copy(update={"num_classes": max(1, outputs)})
    if member.class_names is None and (not outputs or member.spec.name.startswith("open_clip:")):
        return replace(member, spec=spec)
    names = member.class_names or known
    if outputs == 1 and len(names) == 2:
        return replace(member, spec=spec, class_names=names)
    if outputs != len(names):
        whose = "classes" if member.class_names is None else "names"
        raise ValueError(
            f"{member.source} has {outputs} outputs, there are {len(names)} {whose}: give --class-names, the names of "
            "its outputs in order"
        )
    taken = f"its {outputs} outputs are taken for the classes of the data, in order (--class-names says otherwise)"
    notes = member.notes if member.class_names else (*member.notes, taken)
    return replace(member, spec=spec, class_names=names, notes=notes)


class FirstOutput(nn.Module):
    """A network that returns the first of its outputs alone, (examples, outputs) if they are one number each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        first = tensors_in(self.network(x))[0]
        return first[:, None] if first.ndim == 1 else first


def _spec(name: str, made: Architecture, num_classes: int) -> ModelSpec:
    return ModelSpec(name=name, num_classes=num_classes, in_shape=made.shape, options=made.options)
