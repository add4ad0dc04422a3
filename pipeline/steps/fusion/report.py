"""The report of an experiment: every evaluated network as a row, from the records alone."""

from collections.abc import Mapping
from typing import Any

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import Record, read_record

Row = dict[str, Any]


class ReportConfig(Config):
    """A report over evaluated networks."""

    title: str
    settings: dict[str, str]
    """What the reader of the page should know of the experiment, by name."""


def write_report(config: ReportConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the frontier's picture, page and tables; the summary is the accuracy of every network but members."""
    from amalgam.pipeline.reports.files import made_from
    from amalgam.pipeline.reports.frontier import page

    records = [read_record(folder) for folder in inputs["results"]]
    return {**page.write_report(frontier_rows(records), work.out, config.title, config.settings, made_from(records))}


def frontier_rows(records: list[Record]) -> list[Row]:
    """One row per evaluated network: what it is, how it scores, what it costs."""
    return [describe(record) | _numbers(record) for record in records]


def describe(record: Record) -> Row:
    """What the network of an evaluation, an ensemble, a fused or a fine-tuned step is."""
    config, finetuned = record.config.get("network", record.config), record.name == "finetuned"
    if "kind" in config:
        return {
            "role": config["kind"], "method": "", "alpha": None, "recalibrated": False, "finetuned": finetuned,
            "weights": tuple(config["weights"]), "seed": config["seed"], "member": config["member"],
        }  # fmt: skip
    method = config["method"]
    alpha = method.get("alpha")
    return {
        "role": "naive" if alpha is None else "aligned" if alpha == 0 else "partial fusion",
        "method": method["class"], "alpha": alpha, "recalibrated": config["recalibrated"],
        "finetuned": finetuned, "weights": tuple(config["weights"]),
        "seed": config["probe"]["sample"]["seed"], "member": None,
    }  # fmt: skip


def _numbers(record: Record) -> Row:
    """`test/accuracy` and `cost/flops` as `accuracy` and `flops`."""
    kinds = ("test", "cost")
    return {name.partition("/")[2]: value for name, value in record.metrics.items() if name.partition("/")[0] in kinds}


REPORT = Kind("report", write_report, ReportConfig, expect=Expect(3, 500_000))
