"""The reports of experiments whose steps write results: one table, figure and page of every network as a row."""

from collections.abc import Callable, Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.reports.measure import Measure


class ReportConfig(Config):
    """A report over evaluated networks."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""


class ComparisonConfig(ReportConfig):
    """A report that compares results by some measures."""

    measures: tuple[Measure, ...]
    """The first is what the figure shows."""


def write_frontier(config: ReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the frontier of `results`; the summary is the accuracy of every network but members.

    Logged as curves, for the page of the whole run: the front, by cost, and the scores of the best fused network.
    """
    from amalgam.pipeline.reports.builder import read_rows
    from amalgam.pipeline.reports.frontier.page import STEM, frontier_report
    from amalgam.pipeline.reports.frontier.table import best_scores, front

    headline = _written(frontier_report, config, inputs, work)
    rows = read_rows(work.out, STEM)
    for cost, row in front(rows):
        work.log({f"frontier/{name}": row[name] for name in ("accuracy", "nll", "calibration_error")}, step=cost)
    work.log(best_scores(rows), step=0)
    return headline


def write_merging(config: ReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the report of merges in `results`; the summary is every row's mean and worst accuracy.

    Logged as curves, for the page of the whole run: what methods reach on validation images by the setting that is
    chosen so, and the scores of the merge that is best there.
    """
    from amalgam.pipeline.reports.builder import read_rows
    from amalgam.pipeline.reports.merging import STEM, best_scores, merge_report, swept
    from amalgam.pipeline.store.artifact import read_curves
    from amalgam.pipeline.store.tables.results import read_results

    headline = _written(merge_report, config, inputs, work)
    curves = {folder: read_curves(folder) for folder in inputs["results"]}
    runs = [(read_results(folder)[0].network, points) for folder, points in curves.items() if points]
    for step, numbers in swept(runs):
        work.log(numbers, step=step)
    work.log(best_scores(read_rows(work.out, STEM)), step=0)
    return headline


def write_comparison(config: ComparisonConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the comparison of `results`; the summary is the first measure of every row."""
    from amalgam.pipeline.reports.comparison import comparison_report

    return _written(comparison_report, config, inputs, work, measures=config.measures)


def _written(
    report_of: Callable[..., Any], config: ReportConfig, inputs: Mapping[str, Any], work: Workspace, **more: Any
) -> Metrics:
    from amalgam.pipeline.store.artifact import read_record
    from amalgam.pipeline.store.tables.results import read_all

    folders = inputs["results"]
    provenance = [read_record(folder) for folder in folders]
    report, headline = report_of(read_all(folders), config.title, config.settings, provenance=provenance, **more)
    report.write(work.out)
    return headline


REPORT = Kind("report", write_frontier, ReportConfig, version=2, expect=Expect(3, 500_000))
MERGE_REPORT = Kind("merge_report", write_merging, ReportConfig, version=2, expect=Expect(3, 200_000))
COMPARISON = Kind("comparison", write_comparison, ComparisonConfig, version=2, expect=Expect(3, 300_000))
