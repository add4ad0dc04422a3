"""Match members: which units of which members belong together, by every method of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SerializeAsAny

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.fusion import Identity, Method
from amalgam.tasks.models.spec import ModelSpec

if TYPE_CHECKING:
    from amalgam.tasks.fusion.matching import Matching


class MatchingConfig(Config):
    """A sweep of matchings, the first started from unit i with unit i, each other from the one before."""

    methods: tuple[SerializeAsAny[Method], ...]
    model: ModelSpec
    """What the members are; refused before they are trained if units cannot be carried through it."""


def match_members(config: MatchingConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Match the members by every method of the sweep; all weights of members will share what is found."""
    import torch

    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.matchings import save_matchings
    from amalgam.pipeline.store.tables.activations import staged_cost
    from amalgam.tasks.fusion.fusing import check_members
    from amalgam.tasks.tracing.trace import trace

    members = [load_model(folder).to(work.device) for folder in inputs["members"]]
    example = torch.zeros(2, *config.model.in_shape, device=work.device)
    axes = trace(members[0], example)
    check_members(members, axes)
    activations = None
    if any(method.needs_activations for method in config.methods):
        within, with_influence = (
            any(getattr(method, need) for method in config.methods) for need in ("needs_gram", "needs_influence")
        )
        activations = staged_cost(inputs["activations"], work.device, within=within, with_influence=with_influence)
    states = [member.state_dict() for member in members]
    matchings: list[Matching] = []
    for index, method in enumerate(config.methods):
        start = matchings[-1] if matchings else Identity()(axes, states)
        method = method.prepared(members[0], example)
        matchings.append(method(axes, states, activations, start.universe))
        for sweep, objective in enumerate(matchings[-1].objective):
            work.log({f"objective/{index}": objective}, sweep)
    save_matchings(config.methods, matchings, work.out)
    return {"sweeps": sum(max(0, len(matching.objective) - 1) for matching in matchings)}


def check_units(config: MatchingConfig, data_root: Path | None) -> None:
    """Raise ValueError, naming the layer, if units cannot be carried through the members."""
    _require_units(config.model.model_dump_json())


@cache
def _require_units(model: str) -> None:
    """Once for all matchings of a network, given as JSON."""
    import torch

    from amalgam.tasks.models import build
    from amalgam.tasks.tracing.trace import trace

    spec = ModelSpec.model_validate_json(model)
    trace(build(spec, 0), torch.zeros(2, *spec.in_shape))


MATCHING = Kind("matching", match_members, MatchingConfig, version=2, slow_check=check_units, expect=Expect(5, 500_000))
