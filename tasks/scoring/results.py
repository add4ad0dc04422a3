"""Results as a tidy table: which network, tested on what, by which metric, the value and its interval.

Every report groups these rows, and every flat name, such as MLflow needs, is derived from one and never read back.
Importable without torch: configurations of steps say which network they make.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

if TYPE_CHECKING:
    from pandas import DataFrame

Setting = bool | int | float | str
NetworkKind = Literal["member", "ensemble", "rival", "fused", "classifier", "autoencoder", "translator"]
ALPHA, STRENGTH = "alpha", "strength"
"""Settings that reports know: how much of two networks stays apart, or is mixed, and how hard a penalty presses."""
GAIN = "_gain"
"""End of the metrics that say how far a network is ahead of the first one of its step."""
CONFLICT = "conflict"
"""The role of how much members disagree in a tensor, whose name stands in place of a method's."""
COST = "cost"
"""The role of what a network costs, which no test set says."""


class Network(BaseModel):
    """Which network, ensemble or autoencoder a result belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: NetworkKind
    method: str
    """How it was made, by the name that users give the method: `PartialOT`, `logit ensemble`, `sae-mask`."""
    settings: tuple[tuple[str, Setting], ...] = ()
    """The method's settings that have no default or another value than it; a mapping is taken too."""
    weights: tuple[float, ...] = ()
    """Of the members, in an ensemble or a fused network."""
    recalibrated: bool = False
    """Whether its statistics were recalibrated (batch norm) or repaired (REPAIR)."""
    refitted: bool = False
    """Whether its layers were fitted to the ensemble."""
    finetuned: bool = False
    """Whether it was trained a little more after it was made."""
    member: int | None = None
    """Which of several that differ in their seed alone."""
    seed: int = 0
    """The repetition that it belongs to; reports take means over these."""

    @field_validator("settings", mode="before")
    @classmethod
    def _pairs(cls, settings: Any) -> Any:
        return tuple(settings.items()) if isinstance(settings, Mapping) else settings

    def setting(self, name: str) -> Any:
        """The value of a setting; None if it has no such setting, or the default."""
        return dict(self.settings).get(name)

    def number(self, name: str) -> float | None:
        """The value of a setting that is a number."""
        value = self.setting(name)
        return None if value is None else float(value)

    def with_setting(self, name: str, value: Setting) -> "Network":
        """The same network with one more setting."""
        return self.model_copy(update={"settings": (*self.settings, (name, value))})

    @property
    def over_seeds(self) -> "Network":
        """What a mean over seeds is of: everything but the seed."""
        return self.model_copy(update={"seed": 0})

    @property
    def label(self) -> str:
        """Its name in tables and legends, without its weights: `PartialOT 0.4, recalibrated`."""
        words = [self.method if self.member is None else f"{self.method} {self.member}"]
        words += [f"{value:g}" for name, value in self.settings if name == ALPHA]
        others = [f"{name} {_text(value)}" for name, value in self.settings if name != ALPHA]
        marks = ["recalibrated"] * self.recalibrated + ["refit"] * self.refitted + ["fine-tuned"] * self.finetuned
        return ", ".join([" ".join(words), *others, *marks])


@dataclass(frozen=True)
class Result:
    """One number of one network."""

    network: Network
    role: str
    """Kind of test set, such as `id` or `unseen`, or `cost` for what the network costs."""
    test_set: str | None
    """None where the number is of all test sets of the role together."""
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval over resampled examples, where it was resampled."""

    @property
    def measure(self) -> str:
        """`test/accuracy`, or `set/NAME/accuracy` of a single test set."""
        return measure_name(self.role, self.test_set, self.metric)


def measure_name(role: str, test_set: str | None, metric: str) -> str:
    """The flat name of what was measured."""
    return f"{role}/{metric}" if test_set is None else f"set/{test_set}/{metric}"


def flat(results: Iterable[Result], by: Sequence[str] = ()) -> dict[str, float]:
    """The values, but no gains, by flat name with the settings that differ in a step: `seen/accuracy@alpha=0.5`."""
    found: dict[str, float] = {}
    for result in results:
        if result.metric.endswith(GAIN):
            continue
        marks = [f"@{name}={_text(result.network.setting(name))}" for name in by]
        found["".join([result.measure, *marks])] = result.value
    return found


def results_frame(results: Iterable[Result]) -> "DataFrame":
    """The rows for grouping: columns `network` (a `Network` without its seed), `seed`, `measure` and those of a row."""
    import pandas as pd  # here, not above: plans and help pages need none

    names = ("role", "test_set", "metric", "measure", "value", "low", "high")
    rows = [
        {"network": result.network.over_seeds, "seed": result.network.seed}
        | {name: getattr(result, name) for name in names}
        for result in results
    ]
    return pd.DataFrame(rows, columns=["network", "seed", *names])


def settings_of(method: BaseModel) -> dict[str, Setting]:
    """The settings of a method that have no default or another value than it, what is not plain as text."""
    chosen = {
        name: getattr(method, name)
        for name, field in type(method).model_fields.items()
        if field.is_required() or getattr(method, name) != field.get_default(call_default_factory=True)
    }
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in chosen.items()
    }


def target_setting(target: str) -> dict[str, Setting]:
    """The setting of a network that approaches another mean of its members than that of logits."""
    return {} if target == "logits" else {"target": target}


def _text(value: Setting | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
