"""The report of an experiment on merging: every method's accuracy over seeds, from the tables of results."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace


class MergeReportConfig(Config):
    """A report over merged networks."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""


def write_merge_report(config: MergeReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the table, its page and files; the summary is every row's mean and worst accuracy."""
    from amalgam.pipeline.reports.merging.page import merge_report
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all

    folders = inputs["results"]
    records = [read_record(folder) for folder in folders]
    report, headline = merge_report(read_all(folders), config.title, config.settings, records)
    report.write(work.out)
    return {**headline}


MERGE_REPORT = Kind("merge_report", write_merge_report, MergeReportConfig, expect=Expect(3, 200_000))
