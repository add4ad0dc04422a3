"""Match members: which units of which members belong together, by every method of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SerializeAsAny

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.fusion import Identity, Method

if TYPE_CHECKING:
    from amalgam.tasks.fusion.matching import Matching


class MatchingConfig(Config):
    """A sweep of matchings, the first started from unit i with unit i, each other from the one before."""

    methods: tuple[SerializeAsAny[Method], ...]


def match_members(config: MatchingConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Match the members by every method of the sweep; all weights of members will share what is found."""
    import torch

    from amalgam.pipeline.store.checkpoints import load_model, read_spec
    from amalgam.pipeline.store.matchings import save_matchings
    from amalgam.pipeline.store.tables.activations import staged_cost
    from amalgam.tasks.fusion.fusing import check_members
    from amalgam.tasks.tracing.trace import trace

    members = [load_model(folder).to(work.device) for folder in inputs["members"]]
    spec = read_spec(inputs["members"][0])
    axes = trace(members[0], torch.zeros(2, *spec.in_shape, device=work.device))
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
        method = method.prepared(members[0], torch.zeros(2, *spec.in_shape, device=work.device))
        matchings.append(method(axes, states, activations, start.universe))
        for sweep, objective in enumerate(matchings[-1].objective):
            work.log({f"objective/{index}": objective}, sweep)
    save_matchings(config.methods, matchings, work.out)
    return {"sweeps": sum(max(0, len(matching.objective) - 1) for matching in matchings)}


MATCHING = Kind("matching", match_members, MatchingConfig, version=2, expect=Expect(5, 500_000))
