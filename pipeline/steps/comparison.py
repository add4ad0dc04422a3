"""Compare networks that other steps have measured: one table, figure and page."""

from collections.abc import Mapping
from typing import Any, Literal

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace


class MeasureConfig(Config):
    """One column of the table."""

    name: str
    """The metric of the results."""
    heading: str
    unit: Literal["percent", "number", "millions"] = "number"
    test_set: str | None = None


class ComparisonConfig(Config):
    """A report that compares results."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""
    measures: tuple[MeasureConfig, ...]
    """The first is what the picture shows."""


def write_comparison(config: ComparisonConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the table, figure and page of the results in `results`."""
    from amalgam.pipeline.reports.comparison import Measure, comparison_report
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all

    folders = inputs["results"]
    measures = [Measure(one.name, one.heading, one.unit, one.test_set) for one in config.measures]
    report, headline = comparison_report(
        read_all(folders), config.title, config.settings, measures, [read_record(folder) for folder in folders]
    )
    report.write(work.out)
    return {**headline}


COMPARISON = Kind("comparison", write_comparison, ComparisonConfig, expect=Expect(3, 300_000))
