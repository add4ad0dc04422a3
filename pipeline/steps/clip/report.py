"""The report of a robustness experiment: every way to fine-tune, from the records and predictions of its paths."""

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
    from amalgam.pipeline.reports.files import made_from
    from amalgam.pipeline.reports.robustness import page
    from amalgam.pipeline.reports.robustness.saes import quality_rows
    from amalgam.pipeline.reports.robustness.table import WisePath, scores_by_alpha
    from amalgam.pipeline.store.artifact import read_record

    folders = inputs["paths"]
    if len(folders) != len(config.results):
        raise ValueError(f"a report needs a label per path, got {len(config.results)} labels of {len(folders)} paths")
    records = [read_record(folder) for folder in folders]
    paths = [
        WisePath(label.variant, label.strength, label.seed, scores_by_alpha(record.metrics, folder))
        for label, record, folder in zip(config.results, records, folders, strict=True)
    ]
    measured = [read_record(folder) for folder in inputs.get("qualities", ())]
    qualities = quality_rows([record.metrics for record in measured])
    provenance = made_from([*records, *measured])
    return {**page.write_report(paths, qualities, work.out, config, provenance)}


ROBUSTNESS = Kind("robustness", write_report, RobustnessReportConfig, expect=Expect(5, 1_000_000))
