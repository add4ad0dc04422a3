"""`amalgam fuse`: checkpoints in, one network out, with the accuracy and cost of each; no store and no Ray."""

import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.pipeline.cli.from_files.members import Architecture, Member, named, open_member, require_architecture
from amalgam.pipeline.cli.from_files.preprocessing import Preparation, configured, prepared, recorded_in
from amalgam.pipeline.cli.from_files.scored import (
    BATCH_SIZE,
    Row,
    check_accuracies,
    cost_on,
    ensemble_of,
    outputs_of,
    row_of,
)
from amalgam.pipeline.console import say
from amalgam.pipeline.engine.host import require_device
from amalgam.pipeline.store.artifact import digest_of, new_folder
from amalgam.pipeline.store.canonical import canonical
from amalgam.pipeline.store.checkpoints import load_model, save_model, save_pictures
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.loading import batches
from amalgam.tasks.fusion import class_union, fuse
from amalgam.tasks.fusion.fusing import checked_weights
from amalgam.tasks.fusion.methods import Method, Refit
from amalgam.tasks.fusion.rebuild.checks import CalibrationRole


@dataclass(frozen=True)
class FuseRequest:
    """What to fuse, how, on which data, and where to."""

    checkpoints: tuple[Path, ...]
    """Members: weights (.safetensors, .pt, .pth, .th), exported programs (.pt2), or folders that Amalgam wrote."""
    model: str | None
    """Name of the architecture of checkpoints that hold weights alone."""
    model_options: dict[str, Any]
    data: DataSpec
    preparation: Preparation
    """How pictures are prepared, as far as it is given."""
    data_root: Path | None
    method: Method
    weights: tuple[float, ...] | None
    out: Path
    num_calibration: int
    """Unlabelled training images that the fused network is fitted on."""
    seed: int
    """Chooses them."""
    device: str
    refit: Refit | bool = True
    """Whether (and how) layers are fitted to the ensemble, rather than only their statistics corrected."""
    class_names: tuple[tuple[str, ...], ...] = ()
    """Names of each member's outputs, of all alike if one, or empty where the checkpoints or the data say."""
    expected: tuple[float, ...] = ()
    """Accuracy that each member must have, or empty."""
    calibration_role: CalibrationRole = "both"
    structured: bool = False
    """Whether the result is stored and executed as blocks without zeros where that is faster."""


@dataclass(frozen=True)
class _Opened:
    """The members, and the images that they are tested and calibrated on."""

    data: DataSpec
    train: Images
    test: Images
    members: list[Member]
    example: Tensor
    calibration: list[Tensor] | None = field(repr=False)


def fuse_checkpoints(request: FuseRequest) -> list[Row]:
    """Write the fused checkpoint to `request.out`; one row each for the members, their ensemble and the result.

    Raises ValueError, before anything lies there, for any bad input.
    """
    require_device(request.device)
    weights = checked_weights(request.weights, len(request.checkpoints))
    require_architecture(request.checkpoints, request.model)
    with new_folder(request.out) as folder:
        opened = _opened(request)
        members, names = opened.members, [member.class_names for member in opened.members]
        outputs = [outputs_of(member.module, opened.test, request.device) for member in members]
        target = ensemble_of(outputs, names, weights)
        costs = [cost_on(member.module, opened.example) for member in members]
        each = zip([m.source for m in members], outputs, names, costs, strict=True)
        rows = [row_of(*one[:3], opened.test, one[3], target) for one in each]
        if request.expected:
            check_accuracies(members, rows, request.expected)
        fused = _fused(request, opened, weights)
        union = getattr(fused, "class_names", None)
        rows.append(row_of("ensemble", target, union, opened.test, reduce(operator.add, costs), target))
        found = outputs_of(fused, opened.test, request.device)
        rows.append(row_of("fused", found, union, opened.test, cost_on(fused, opened.example), target))
        spec = members[0].spec.model_copy(update={"num_classes": found.shape[1]})
        save_model(fused, spec, folder)
        save_pictures(opened.test, folder, union)
        _write_origin(request, opened, weights, rows, folder)
    load_model(request.out)  # What was written can be read.
    return rows


def _opened(request: FuseRequest) -> _Opened:
    data, sentence = prepared(request.data, request.preparation, _known(request))
    say(sentence)
    train, test = (load(data, part, request.data_root) for part in ("train", "test"))
    example, calibration = _calibration(train, request)
    made = Architecture(request.model, request.model_options, test.shape)
    given = request.class_names * (len(request.checkpoints) if len(request.class_names) == 1 else 1)
    if given and len(given) != len(request.checkpoints):
        raise ValueError(f"--class-names are given for {len(given)} members, there are {len(request.checkpoints)}")
    members = []
    for path, own in zip(request.checkpoints, given or [None] * len(request.checkpoints), strict=True):
        member = open_member(path, made, own, test.class_names)
        member.module.to(request.device)
        members.append(named(member, example, test.class_names))
        for note in members[-1].notes:
            say(f"{path}: {note}")
    _check_classes(members, test)
    return _Opened(data, train, test, members, example, calibration)


def _known(request: FuseRequest) -> list[tuple[str, Preparation]]:
    """Who says how pictures are prepared: records beside the checkpoints, else the architecture's configuration."""
    found, has_others = [], False
    for path in request.checkpoints:
        record = recorded_in(path if path.is_dir() else path.parent)
        found += [(str(path), record)] if record else []
        has_others = has_others or not record
    config = configured(request.model, request.data) if request.model and has_others else None
    return [*found, *([(request.model or "", config)] if config else [])]


def _check_classes(members: Sequence[Member], test: Images) -> None:
    names = [member.class_names for member in members]
    if None in names and set(names) != {None}:
        raise ValueError(f"{members[names.index(None)].source} has no classes, other members have")
    known = set(class_union([each for each in names if each is not None]))
    if known and (unknown := [name for name in test.class_names if name not in known]):
        raise ValueError(
            f"no member knows {len(unknown)} of the data's {len(test.class_names)} classes, such as {unknown[0]!r}: "
            "give --class-names, the names of the members' outputs as the data has them"
        )


def _calibration(train: Images, request: FuseRequest) -> tuple[Tensor, list[Tensor] | None]:
    """One image, and the batches the result is calibrated on."""
    generator = torch.Generator().manual_seed(request.seed)
    if request.num_calibration > len(train):
        raise ValueError(
            f"{request.num_calibration} calibration images are requested, {len(train)} are there: lower --calibration"
        )
    chosen = torch.randperm(len(train), generator=generator)[: max(1, request.num_calibration)]
    found = [batch.images for batch in batches(train, chosen, BATCH_SIZE, device=request.device)]
    return found[0][:1], found if request.num_calibration else None


def _fused(request: FuseRequest, opened: _Opened, weights: Sequence[float]) -> nn.Module:
    """The fused network; it knows the names of its classes."""
    names = [member.class_names for member in opened.members if member.class_names is not None]
    return fuse(
        [member.module for member in opened.members],
        request.method,
        opened.example,
        weights,
        opened.calibration,
        request.refit,
        class_names=names or None,
        calibration_role=request.calibration_role,
        structured=request.structured,
    )


def _write_origin(
    request: FuseRequest,
    opened: _Opened,
    weights: Sequence[float],
    rows: Sequence[Row],
    folder: Path,
) -> None:
    """Write next to the weights what they were made from, and what the next one to use them must know."""
    files = {path: path / "model.safetensors" if path.is_dir() else path for path in request.checkpoints}
    origin = {
        "members": {str(path): digest_of(file) for path, file in files.items()},
        "weights": list(weights),
        "method": canonical(request.method),
        "data": canonical(opened.data),
        "num_calibration": request.num_calibration,
        "refit": canonical(request.refit),
        "seed": request.seed,
        "results": rows,
    }
    (folder / "fusion.json").write_text(json.dumps(origin, indent=2) + "\n")
