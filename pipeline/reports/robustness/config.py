"""Configuration of the robustness report. Importable without torch."""

from typing import Literal

from pydantic import Field, field_validator

from amalgam.pipeline.engine.kinds import Config

ZERO_SHOT = "zero-shot"
PLAIN = "ft"
WARNING = "warning:"
"""How notes of steps begin that a report repeats."""
DRIFT = "drift"
"""The role of how far the features of held-out images moved."""


class RobustnessReportConfig(Config):
    """A report over fine-tuning methods, each with the strengths and seeds it was tried at."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""
    derived: dict[str, str] = Field(default_factory=dict)
    """Those of the settings that were derived, such as from the number of pictures."""
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Largest drop in validation accuracy (fraction) accepted when choosing a strength or an alpha."""
    about: dict[str, str] = Field(default_factory=dict)
    """What each fine-tuning method is, in a few words."""
    strength_form: Literal["mean", "sum"] = "mean"
    """Whether strengths multiply means over the features, or sums."""
    compare: tuple[str, ...] = ()
    """Two methods to compare at equal in-distribution accuracy, the first as it was chosen; empty compares none."""

    @field_validator("compare")
    @classmethod
    def _is_a_pair(cls, compare: tuple[str, ...]) -> tuple[str, ...]:
        if compare and (len(compare) != 2 or compare[0] == compare[1]):
            raise ValueError(f"a comparison is of two different methods, such as sae-mask,l2, got {','.join(compare)}")
        return compare
