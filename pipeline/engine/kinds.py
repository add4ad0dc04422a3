"""A kind of step, declared once beside its function: what it is called, what it runs, and what it expects.

Experiments call the kind: `ACTIVATIONS(config, member=member)` is a step. The version stands in the kind alone, so that
every graph, a user's own too, finds the same results.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from amalgam.pipeline.engine.step import Expect, Step, StepFunction


class Config(BaseModel):
    """A frozen configuration that knows every field it may have: each of them changes the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def folder_itself(folder: Any) -> Any:
    """What was written, not opened: how most kinds are read."""
    return folder


C = TypeVar("C", bound=BaseModel)
Check: TypeAlias = Callable[[C, Path | None], None]


@dataclass(frozen=True)
class Kind(Generic[C]):
    """What all steps of a kind share."""

    name: str
    """The first part of the folder names of its steps, such as `member`."""
    function: StepFunction
    """`function(config, inputs, work) -> summary metrics`."""
    config: type[C]
    """The class of its configurations."""
    version: int = 1
    """Raised when the meaning of the function changes, so that old outputs are built anew."""
    check: Check[C] | None = None
    """See `Step.check`: instant and light."""
    slow_check: Check[C] | None = None
    """See `Step.slow_check`: what takes seconds or torch."""
    expect: Expect | None = None
    """A guess of what such a step costs."""
    is_distributed: bool = False
    """Whether several processes can build it together."""
    read: Callable[..., Any] = folder_itself
    """Opens what such a step wrote, `read(folder, ...)`: the one way in which other steps read it as their input."""

    def __call__(self, config: C, /, **inputs: Step | tuple[Step, ...]) -> Step:
        """The step of this configuration, which reads `inputs` by role.

        Raises ValueError for a configuration of another class.
        """
        if not isinstance(config, self.config):
            raise ValueError(f"a {self.name!r} step needs a {self.config.__name__}, got a {type(config).__name__}")
        return Step(
            self.name,
            self.function,
            config,
            inputs,
            version=self.version,
            check=self.check,
            slow_check=self.slow_check,
            expect=self.expect,
            is_distributed=self.is_distributed,
        )

    def expecting(self, seconds: float, num_bytes: int) -> Self:
        """The same kind with another guess, such as one that an experiment makes from the size of its data."""
        return replace(self, expect=Expect(seconds, num_bytes))
