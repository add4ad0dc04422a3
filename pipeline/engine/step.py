"""A step: a function, its configuration and its inputs, named by a fingerprint of what changes the result.

Steps are lazy values. Passing one as an input of another is the graph; `pipeline.engine.execute.run` makes it real.
This module imports nothing heavy, so a plan is printed without torch or Ray.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from amalgam.pipeline.store.canonical import canonical_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
REFERENCE = re.compile(r"[\w.]+:\w+")

Metrics: TypeAlias = Mapping[str, float | int | str]
"""What a step function gives for its record: its summary."""
StepFunction: TypeAlias = Callable[..., Metrics]
Check: TypeAlias = Callable[[Any, Path | None], None]
Inputs: TypeAlias = "Mapping[str, Step | tuple[Step, ...]]"


@dataclass(frozen=True)
class Resources:
    """What one step may use. It decides where and how fast a step runs, never what comes out."""

    num_cpus: float = 1
    """CPU cores reserved; also the number of threads torch and BLAS may use."""
    num_gpus: float = 0
    """GPUs reserved; a fraction shares one."""
    num_workers: int = 1
    """Processes that train together, each with these CPUs and GPUs; only for steps that can."""
    max_retries: int = 2
    """Attempts after the first when the worker dies or a file system fails."""
    memory_gb: float = 0
    """Memory it is expected to take, in GB: Ray starts no more steps on a machine than fit. 0 leaves that to Ray."""

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus", "memory_gb", "max_retries"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be zero or more, got {value}")
        if self.num_gpus > 1 and not float(self.num_gpus).is_integer():
            raise ValueError(f"num_gpus must be whole above 1, as only one GPU can be shared, got {self.num_gpus}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


@dataclass(frozen=True)
class Expect:
    """A guess of what a step costs, used by the plan until a record of the same kind of step exists."""

    seconds: float
    """Wall time of one build, in seconds."""
    bytes: int
    """Size of its output on disk, in bytes."""


@dataclass(frozen=True, eq=False)
class Step:
    """One unit of work, seconds to hours long, with a name of its own in the store."""

    name: str
    """Kind of step, such as `member`; the first part of its folder's name."""
    function: str | StepFunction
    """`module:function`, or a callable: `function(config, inputs, work) -> summary metrics`."""
    config: BaseModel | Mapping[str, Any] = field(default_factory=dict)
    """Everything that changes the result, and nothing else."""
    inputs: Inputs = field(default_factory=dict)
    """Steps whose folders the function reads, by role."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files that its config names but does not contain, by name; see `pipeline.engine.data_digests`."""
    version: int = 1
    """Raised when the meaning of the code changes, so that old outputs are built anew."""
    resources: Resources = Resources()
    is_distributed: bool = False
    """Whether several processes can build it together: its function looks at `Workspace.num_workers`."""
    expect: Expect | None = None
    check: str | Check | None = None
    """`module:function`, or a callable, called as `check(config, data_root)` by plans and before anything runs.

    It may raise ValueError. Instant and light: it looks whether files are there, not into them.
    """
    slow_check: str | Check | None = None
    """The same for what takes seconds or torch: plans leave it out."""
    fingerprint: str = field(init=False)
    """16 hex digits of the SHA-256 of `identity`."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a step's name is letters, digits, '_' and '.', got {self.name!r}")
        for reference in (self.function, self.check, self.slow_check):
            if isinstance(reference, str) and not REFERENCE.fullmatch(reference):
                raise ValueError(f"step {self.name!r} needs 'module:function', got {reference!r}")
        text = canonical_json(self.identity, f"step {self.name!r}")
        object.__setattr__(self, "fingerprint", hashlib.sha256(text.encode()).hexdigest()[:16])

    @property
    def identity(self) -> dict[str, Any]:
        """What the fingerprint is taken of: not the root, resources, device or number of workers."""
        inputs = {
            role: value.fingerprint if isinstance(value, Step) else [step.fingerprint for step in value]
            for role, value in self.inputs.items()
        }
        named = {"name": self.name, "version": self.version, "config": self.config, "inputs": inputs}
        return named | ({"data": self.data} if self.data else {})

    @property
    def key(self) -> str:
        """The step's folder name in any store."""
        return f"{self.name}-{self.fingerprint}"

    def path(self, root: Path) -> Path:
        """Where the finished output lies under `root`."""
        return root / self.key

    @property
    def parents(self) -> Iterator["Step"]:
        """The steps this one reads, in the order of its inputs."""
        for value in self.inputs.values():
            yield from (value,) if isinstance(value, Step) else value


def ancestors(targets: Sequence[Step]) -> list[Step]:
    """Every step the targets need, themselves included, inputs first, one per fingerprint."""
    ordered: dict[str, Step] = {}
    for target in targets:
        _visit(target, ordered)
    return list(ordered.values())


def with_resources(targets: Sequence[Step], change: Callable[[Step], Resources]) -> list[Step]:
    """The same graph, same fingerprints, with `change(step)` as the resources of every step."""
    return changed_steps(targets, lambda step: {"resources": change(step)})


def changed_steps(targets: Sequence[Step], change: Callable[[Step], Mapping[str, Any]]) -> list[Step]:
    """The same graph with other fields of every step, those that `change` gives."""
    changed: dict[str, Step] = {}

    def renew(value: Step | tuple[Step, ...]) -> Step | tuple[Step, ...]:
        return changed[value.fingerprint] if isinstance(value, Step) else tuple(changed[s.fingerprint] for s in value)

    for step in ancestors(targets):
        inputs = {role: renew(value) for role, value in step.inputs.items()}
        changed[step.fingerprint] = replace(step, **{"inputs": inputs, **change(step)})
    return [changed[target.fingerprint] for target in targets]


def _visit(step: Step, ordered: dict[str, Step]) -> None:
    known = ordered.get(step.fingerprint)
    if known is None:
        for parent in step.parents:
            _visit(parent, ordered)
        ordered[step.fingerprint] = step
    elif known.function != step.function:
        raise ValueError(
            f"two steps are both {step.key}, but run {known.function} and {step.function}: name them differently"
        )
