"""Match members, fuse them, fine-tune what was fused."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.activations import ROWS
from amalgam.pipeline.steps.configs import FinetunedConfig, FusedConfig, MatchingConfig
from amalgam.pipeline.steps.measures import Metrics, cost_metrics, test_metrics
from amalgam.pipeline.steps.samples import Repeatable, example, open_pool, probe_indices
from amalgam.pipeline.store.checkpoints import load_model, read_spec, save_model
from amalgam.pipeline.store.matchings import load_matching, save_matchings
from amalgam.pipeline.store.rows import describe, read_rows
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.splits import hold_out
from amalgam.tasks.fusion import merge, support
from amalgam.tasks.fusion.cost import ActivationCost
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.fusing import check_members, checked_weights, restored
from amalgam.tasks.fusion.matching import Matching
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import as_rows
from amalgam.tasks.tracing.cost import cost_of
from amalgam.tasks.tracing.trace import trace
from amalgam.tasks.training.loop import train

CALIBRATION_BATCH = 256  # images; batch norm averages the variances of batches, so they should not be small


def match_members(config: MatchingConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Match the members by every method of the sweep; all weights of members will share what is found."""
    members = [load_model(folder).to(work.device) for folder in inputs["members"]]
    spec = read_spec(inputs["members"][0])
    axes = trace(members[0], torch.zeros(2, *spec.in_shape, device=work.device))
    check_members(members, axes)
    activations = None
    if any(method.needs_activations for method in config.methods):
        activations = staged_cost([folder / ROWS for folder in inputs["activations"]], work.device)
    states, matchings = [member.state_dict() for member in members], list[Matching]()
    for place, method in enumerate(config.methods):
        start = matchings[-1].universe if matchings else None
        matchings.append(method(axes, states, activations, start))
        for sweep, objective in enumerate(matchings[-1].objective):
            work.log({f"objective/{place}": objective}, sweep)
    save_matchings(config.methods, matchings, work.out)
    return {"sweeps": sum(max(0, len(matching.objective) - 1) for matching in matchings)}


def fuse_members(config: FusedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Fuse the members as one method matched them, save the network, and evaluate it on the test split."""
    train_images, pool, _ = open_pool(config.probe.sample, work.data_root)
    members, axes, couplings = _matched(config, inputs, example(train_images, work.device), work.device)
    weights = checked_weights(config.weights, len(members))
    fused = merge(members, axes, couplings, weights)
    if config.recalibrated:
        probe = Repeatable(train_images, probe_indices(config.probe, pool), CALIBRATION_BATCH, work.device)
        fused = restored(fused, members, axes, couplings, weights, probe)
    save_model(fused, read_spec(inputs["members"][0]), work.out)
    return _evaluated(fused, config.probe.sample.data, support(axes, couplings, fused), work)


def finetune(config: FinetunedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train a network on a few labelled images, structural zeros kept, and evaluate it on the test split.

    After a retry, go on from the last finished epoch.
    """
    images, pool, validation = open_pool(config.sample, work.data_root)
    network = load_model(inputs["network"]).to(work.device)
    allowed: Mapping[str, Tensor] = {}
    if isinstance(config.network, FusedConfig):
        _, axes, couplings = _matched(config.network, inputs, example(images, work.device), work.device)
        allowed = support(axes, couplings, network)
    _, chosen = hold_out(images.labels.numpy()[pool], config.share, config.seed)
    tuned = train(
        network, images, pool[chosen], validation, config.training, config.seed,
        log=work.log, support=allowed, resume=resume_state(work), save=saver(work), device=work.device,
    ).module  # fmt: skip
    save_model(tuned, read_spec(inputs["network"]), work.out)
    return _evaluated(tuned, config.sample.data, allowed, work)


def staged_cost(files: Sequence[Path], device: str) -> ActivationCost:
    """Distances between the units of all members, from their staged activations, read side by side.

    Raises ValueError unless all files hold the same examples in the same order.
    """
    cost = ActivationCost(len(files))
    shapes = describe(files[0]).sites
    for parts in zip(*(read_rows(file) for file in files), strict=True):
        if any(not np.array_equal(part.ids, parts[0].ids) for part in parts):
            raise ValueError(f"{files[0]} and its companions hold different examples: build them again")
        cost.update([dict(_unit_rows(part.sites, shapes, device)) for part in parts])
    return cost


def _unit_rows(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, int]], device: str
) -> Iterator[tuple[str, Tensor]]:
    for group, (_, positions) in shapes.items():
        tensor = torch.from_numpy(values[group]).to(device).float()
        yield from as_rows({group: tensor.unflatten(1, (-1, positions))}).items()


def _matched(
    config: FusedConfig, inputs: Mapping[str, Any], x: Tensor, device: str
) -> tuple[list[nn.Module], Axes, dict[str, Coupling]]:
    members = [load_model(folder).to(device) for folder in inputs["members"]]
    axes = trace(members[0], x)
    check_members(members, axes)
    return members, axes, load_matching(config.method, inputs["matching"]).couplings()


def _evaluated(module: nn.Module, data: DataSpec, allowed: Mapping[str, Tensor], work: Workspace) -> Metrics:
    images = load(data, "test", work.data_root)
    logits = predict(module, images, np.arange(len(images)), device=work.device)
    cost = cost_of(module, example(images, work.device), allowed)
    return {**test_metrics(logits, images), **cost_metrics(cost), "data_fingerprint": images.fingerprint}
