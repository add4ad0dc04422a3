"""`amalgam fuse`: checkpoints in, one network out, with the accuracy and cost of each; no store and no Ray."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.host import require_device
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.canonical import canonical
from amalgam.pipeline.store.checkpoints import fill, load_model, read_state, save_model
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.loading import batches
from amalgam.tasks.fusion import fuse
from amalgam.tasks.fusion.fusing import checked_weights
from amalgam.tasks.fusion.methods import Method, Refit
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.scoring.logits import logit_ensemble, predict, score
from amalgam.tasks.tracing.cost import cost_of

BATCH_SIZE = 128


@dataclass(frozen=True)
class Request:
    """What to fuse, how, on which data, and where to."""

    checkpoints: tuple[Path, ...]
    """Weights (.safetensors, .pt) of the members."""
    model: str
    """Name of the members' architecture."""
    model_options: dict[str, Any]
    data: DataSpec
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


def fuse_checkpoints(request: Request) -> list[dict[str, Any]]:
    """Write the fused checkpoint to `request.out`; one row each for the members, their ensemble and the result.

    Raises ValueError, before anything lies there, for any bad input.
    """
    require_device(request.device)
    weights = checked_weights(request.weights, len(request.checkpoints))
    with new_folder(request.out) as folder:
        train, test = (load(request.data, part, request.data_root) for part in ("train", "test"))
        options = request.model_options
        spec = ModelSpec(name=request.model, num_classes=len(test.class_names), in_shape=test.shape, options=options)
        members = [
            fill(build(spec, seed=0), read_state(path), str(path)).eval().to(request.device)
            for path in request.checkpoints
        ]
        example, calibration = _calibration(train, request)
        fused = fuse(members, request.method, example, weights, calibration, request.refit)
        rows = _rows(request, members, fused, weights, test, example)
        save_model(fused, spec, folder)
        _write_origin(request, weights, rows, folder)
    load_model(request.out)  # What was written can be read.
    return rows


def _calibration(train: Images, request: Request) -> tuple[Tensor, list[Tensor] | None]:
    """One image, and the batches the result is calibrated on."""
    generator = torch.Generator().manual_seed(request.seed)
    if request.num_calibration > len(train):
        raise ValueError(
            f"{request.num_calibration} calibration images are requested, {len(train)} are there: lower --calibration"
        )
    chosen = torch.randperm(len(train), generator=generator)[: max(1, request.num_calibration)]
    found = [batch.images for batch in batches(train, chosen, BATCH_SIZE, device=request.device)]
    return found[0][:1], found if request.num_calibration else None


def _rows(
    request: Request,
    members: Sequence[nn.Module],
    fused: nn.Module,
    weights: Sequence[float],
    test: Images,
    example: Tensor,
) -> list[dict[str, Any]]:
    everyone = torch.arange(len(test))
    logits = [predict(module, test, everyone, BATCH_SIZE, request.device) for module in (*members, fused)]
    costs = [cost_of(module, example, _nonzero(module)) for module in (*members, fused)]
    together = costs[0]
    for cost in costs[1:-1]:
        together = together + cost
    networks = [*zip([str(path) for path in request.checkpoints], logits, costs, strict=False)]
    networks.append(("ensemble", logit_ensemble(logits[:-1], weights), together))
    networks.append(("fused", logits[-1], costs[-1]))
    return [
        {"network": name} | score(scores, test.labels, len(test.class_names)) | vars(cost)
        for name, scores, cost in networks
    ]


def _nonzero(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter != 0 for name, parameter in module.named_parameters()}


def _write_origin(request: Request, weights: Sequence[float], rows: Sequence[Any], folder: Path) -> None:
    """Write next to the weights what they were made from."""
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in request.checkpoints}
    origin = {
        "members": digests,
        "weights": list(weights),
        "method": canonical(request.method),
        "data": canonical(request.data),
        "num_calibration": request.num_calibration,
        "refit": canonical(request.refit),
        "seed": request.seed,
        "results": rows,
    }
    (folder / "fusion.json").write_text(json.dumps(origin, indent=2) + "\n")
