"""Configuration of the robustness report: which path belongs to which way to fine-tune. Importable without torch."""

from pydantic import Field, model_validator

from amalgam.pipeline.engine.kinds import Config

ZERO_SHOT = "zero-shot"
PLAIN = "ft"


class ResultLabel(Config):
    """What the path of one fine-tuned network is called in a report."""

    variant: str
    """Way to fine-tune; `zero-shot` is the network before it, `ft` plain fine-tuning."""
    strength: float | None
    """Weight of its penalty; None where it has none."""
    seed: int


class RobustnessReportConfig(Config):
    """A report over ways to fine-tune, each with the strengths and seeds it was tried at."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""
    results: tuple[ResultLabel, ...]
    """One per path, in the order of the paths."""
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Share of in-distribution validation accuracy that the choice of a strength, or of an alpha, may give up."""
    about: dict[str, str] = Field(default_factory=dict)
    """What each way to fine-tune is, in a few words."""

    @model_validator(mode="after")
    def _results_agree(self) -> "RobustnessReportConfig":
        seeds: dict[tuple[str, float | None], list[int]] = {}
        for label in self.results:
            seeds.setdefault((label.variant, label.strength), []).append(label.seed)
        if (ZERO_SHOT, None) not in seeds:
            raise ValueError(f"a report compares with {ZERO_SHOT!r}, which has no strength: give its results too")
        for (variant, strength), tried in seeds.items():
            if sorted(tried) != sorted(seeds[ZERO_SHOT, None]) or len(set(tried)) < len(tried):
                every = sorted(seeds[ZERO_SHOT, None])
                raise ValueError(f"{variant!r} at strength {strength} has seeds {sorted(tried)}, zero-shot has {every}")
        return self
