"""The report of an experiment: every evaluated network as a row, from the results of its steps."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace


class ReportConfig(Config):
    """A report over evaluated networks."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""


def write_report(config: ReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the frontier's picture, page and tables; the summary is the accuracy of every network but members."""
    from amalgam.pipeline.reports.frontier.page import frontier_report
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all

    folders = inputs["results"]
    report, headline = frontier_report(
        read_all(folders), config.title, config.settings, [read_record(folder) for folder in folders]
    )
    report.write(work.out)
    return {**headline}


REPORT = Kind("report", write_report, ReportConfig, version=2, expect=Expect(3, 500_000))
