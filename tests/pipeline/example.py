"""A tiny experiment for the tests of the step machinery: draw random walks, then add them up."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict

from amalgam.pipeline.engine.step import Expect, Resources, Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import written_whole
from amalgam.tasks.training.epochs import Diverged


class Walk(BaseModel):
    """A random walk and the mishaps that befall its builder."""

    model_config = ConfigDict(frozen=True)
    seed: int = 0
    length: int = 4
    dies_at: int | None = None
    """Position at which the first attempt kills its own process."""
    fails_at: int | None = None
    """Position at which the first attempt raises OSError."""
    refuses: bool = False
    """Raise ValueError after writing half of the output."""
    diverges: bool = False
    """Raise Diverged after the last position."""


def walk(config: Walk, inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """Write `walk.json`, resuming from the last position in `scratch`."""
    saved = work.scratch / "walk.json"
    first_attempt = not saved.exists()
    positions = [] if first_attempt else json.loads(saved.read_text())
    for i in range(len(positions), config.length):
        positions.append(float(np.random.default_rng([config.seed, i]).normal()))
        work.log({"position": positions[i]}, step=i)
        with written_whole(saved) as partial:
            partial.write_text(json.dumps(positions))
        if first_attempt and i == config.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if first_attempt and i == config.fails_at:
            raise OSError("the disk is away for a moment")
    (work.out / "walk.json").write_text(json.dumps(positions))
    if config.diverges:
        raise Diverged("the walk went astray")
    if config.refuses:
        raise ValueError(f"walks with seed {config.seed} are refused")
    return {"sum": sum(positions)}


def total(config: Mapping[str, float], inputs: Mapping[str, tuple[Path, ...]], work: Workspace) -> dict[str, float]:
    """Add up all walks, by a product long enough for threads to matter."""
    walks = [json.loads((path / "walk.json").read_text()) for path in inputs["walks"]]
    values = np.resize(np.array(walks), (300, 300))
    value = float((values @ values).sum() * config["scale"])
    (work.out / "total.json").write_text(json.dumps(value))
    return {"total": value}


def check_walk(config: Walk, data_root: Path | None) -> None:
    """Refuse, before anything runs, a walk that goes nowhere."""
    if config.length < 1:
        raise ValueError(f"a walk needs a length of 1 or more, got {config.length}")


def walk_step(config: Walk) -> Step:
    """The step that takes one walk."""
    return Step(
        "walk",
        "tests.pipeline.example:walk",
        config,
        expect=Expect(seconds=2, bytes=1000),
        check="tests.pipeline.example:check_walk",
    )


def total_step(walks: tuple[Step, ...], scale: float = 1.0) -> Step:
    """The step that adds walks up."""
    return Step("total", "tests.pipeline.example:total", {"scale": scale}, {"walks": walks}, resources=Resources(1))


def walks(
    seeds: tuple[int, ...] = (0, 1),
    scale: Annotated[float, "Factor on the total."] = 1.0,
    length: int = 4,
    refuses: bool = False,
) -> Step:
    """Random walks, added up."""
    return total_step(tuple(walk_step(Walk(seed=seed, length=length, refuses=refuses)) for seed in seeds), scale)
