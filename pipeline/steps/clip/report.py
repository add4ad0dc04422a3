"""The report of a robustness experiment: every fine-tuning method, from the results and predictions of its paths."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.robustness.config import RobustnessReportConfig


def write_report(config: RobustnessReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the findings, picture, tables and page; the summary is every row of the main table by role.

    Reads the `paths` and, if autoencoders were measured, their `qualities`, a step of each seed.
    """
    from amalgam.pipeline.reports.robustness.page import robustness_report
    from amalgam.pipeline.reports.robustness.saes import quality_rows
    from amalgam.pipeline.reports.robustness.table import path_frame
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all, read_results

    paths, qualities = inputs["paths"], inputs.get("qualities", ())
    frame = path_frame({folder: read_results(folder) for folder in paths})
    provenance = [read_record(folder) for folder in (*paths, *qualities)]
    report, headline = robustness_report(frame, quality_rows(read_all(qualities)), config, provenance)
    report.write(work.out)
    return {**headline}


ROBUSTNESS = Kind("robustness", write_report, RobustnessReportConfig, version=3, expect=Expect(5, 1_000_000))
