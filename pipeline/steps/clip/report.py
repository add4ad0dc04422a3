"""The report of a robustness experiment: every fine-tuning method, from the results and predictions of its paths."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.robustness.config import RobustnessReportConfig


def write_report(config: RobustnessReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the findings, picture, tables and page; the summary is every row of the main table by role.

    Reads the `paths` and, if autoencoders were measured, their `qualities`, a step of each seed; its page names the
    networks of the `explanations`. Logged as curves, for the page of the whole run: accuracies by place of the strength
    in its grid, plain fine-tuning being 0, and by alpha in percent; and the scores of the fine-tuned network that is
    best on validation images.
    """
    from amalgam.pipeline.reports.builder import read_rows
    from amalgam.pipeline.reports.robustness.page import STEM, robustness_report
    from amalgam.pipeline.reports.robustness.saes import quality_rows
    from amalgam.pipeline.reports.robustness.sweeps import best_scores, swept
    from amalgam.pipeline.reports.robustness.table import path_frame
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all, read_results

    paths, qualities = inputs["paths"], inputs.get("qualities", ())
    frame = path_frame({folder: read_results(folder) for folder in paths})
    provenance = [read_record(folder) for folder in (*paths, *qualities)]
    explained = {folder.name: read_results(folder)[0].network for folder in inputs.get("explanations", ())}
    report, headline = robustness_report(frame, quality_rows(read_all(qualities)), config, provenance, explained)
    report.write(work.out)
    rows = read_rows(work.out, STEM)
    for step, numbers in swept(rows):
        work.log(numbers, step=step)
    work.log(best_scores(rows), step=0)
    return {**headline}


ROBUSTNESS = Kind("robustness", write_report, RobustnessReportConfig, version=4, expect=Expect(5, 1_000_000))
