"""Params, metrics and tags of a step's record and of a run's.

Names are the same in every run, so that runs compare: a param is the path of a setting in the config, a metric is
what the step called it (`test/accuracy`, `cost/flops`, ...); every step has `usage/seconds` and `usage/bytes`, and what
it took of its machine stands where MLflow has its system metrics.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.utils import mlflow_tags as names

from amalgam.pipeline.store.artifact import Point, Record
from amalgam.pipeline.store.record_text import flat
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import TRAINING_VIEW
from amalgam.pipeline.tracking.view.datasets import DATA_FINGERPRINT, staged_rows
from amalgam.pipeline.tracking.view.notes import Link, within_limit

FINGERPRINT, RUN_KEY, VERDICT = "fingerprint", "run", "verdict"
READ_BY_PEOPLE = {".png", ".svg", ".html", ".csv", ".parquet", ".md", ".txt"}
VIEW = "amalgam"
"""Key of the view of an experiment's runs that has a column for each score and cost, and no steps."""
COLUMNS = (
    *("test/accuracy", "test/accuracy_std", "test/nll", "test/calibration_error"),
    *("cost/relative_nonzero_flops", "cost/relative_nonzero_parameters", "usage/seconds"),
)
PARAM_LIMIT = 500  # nobody compares longer ones, and MLflow warns of those it cuts off itself
MOST_LINKS = 200  # run ids in one tag; more are a file of the run
LINKS_FILE = "cached_runs.txt"
SWEEPS = ("frontier/", "by_strength/", "by_alpha/", "by_setting/")
"""Starts of the names of curves of a whole experiment: a measure by cost, by strength, by alpha, by setting."""


def experiment_tags() -> dict[str, str]:
    """What makes the pages of a new experiment show scores: its kind, its primary metric, and a view of its runs."""
    runs = {
        "searchFilter": "tags.step = 'experiment'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [f"metrics.`{name}`" for name in COLUMNS],
    }
    now = milliseconds(time.time())
    view = {"name": "Runs with scores and cost", "createdAt": now, "updatedAt": now, "state": json.dumps(runs)}
    return {
        "mlflow.experimentKind": "custom_model_development",  # else the UI asks every visitor what kind this is
        names.MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: "test/accuracy",
        names.MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER: "True",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def experiment_note(experiment_id: str) -> str:
    """The description of an experiment: a link to its view."""
    address = f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&{TRAINING_VIEW}"
    return f"[Runs with scores and cost]({address})"


def milliseconds(seconds: float) -> int:
    """Time as MLflow has it."""
    return int(1000 * seconds)


def params(config: Mapping[str, Any]) -> list[Param]:
    """One param per setting, named by its path; a model's class stands at the path of the model itself."""
    return [Param(_allowed(path), _shortened(value)) for path, value in flat(config).items()]


def step_metrics(record: Record, curves: Sequence[Point]) -> list[Metric]:
    """The curves, then the summary at each curve's last step, so that columns show the summary."""
    summary = record.numbers | {"usage/seconds": record.seconds, "usage/bytes": float(record.bytes)}
    return _with_curves(summary | _system(record), curves, record.started + record.seconds)


def run_metrics(run: RunRecord, records: Mapping[str, Record], curves: Mapping[str, Sequence[Point]]) -> list[Metric]:
    """The targets' curves and summaries, how long the run took and what the steps that it built took together.

    `curves` are those of the targets by fingerprint. Where they hold a sweep, numbers of single networks, which have a
    `/` in their names, are left to the run of the target: on the page of a whole run they would be charts of one bar.
    """
    seconds = run.seconds or 0
    points = [point for key in run.targets for point in curves.get(key, ())]
    summary = {name: value for key in run.targets if key in records for name, value in records[key].numbers.items()}
    if any(point.metric.startswith(SWEEPS) for point in points):
        summary = {name: value for name, value in summary.items() if "/" not in name}
    built = [records[key] for key in run.built]
    took = {"usage/seconds": seconds, "usage/bytes": float(sum(record.bytes for record in built))}
    took |= {"usage/cpu_seconds": sum(record.usage.get("cpu_seconds", 0) for record in built)}
    return _with_curves(summary | took | _verdict(run), points, run.started + seconds)


def _with_curves(summary: Mapping[str, float], curves: Sequence[Point], ended: float) -> list[Metric]:
    last_step: dict[str, int] = {}
    for point in curves:
        last_step[point.metric] = max(point.step, last_step.get(point.metric, 0))
    ended += 0.001  # later than the last point, whose millisecond it may share
    last = [_metric(name, value, ended, last_step.get(name, 0)) for name, value in summary.items()]
    return [_metric(point.metric, point.value, point.time, point.step) for point in curves] + last


def _system(record: Record) -> dict[str, float]:
    """What a step took of its machine, under the names of MLflow's system metrics."""
    used, found = record.usage, dict[str, float]()
    if record.seconds and "cpu_seconds" in used:
        found["usage/cpu_seconds"] = used["cpu_seconds"]
        found["system/cpu_utilization_percentage"] = 100 * used["cpu_seconds"] / record.seconds
    for name in ("peak_memory", "peak_gpu_memory"):
        if name in used:
            found[f"system/{name}_megabytes"] = used[name] / 2**20
    return found


def _verdict(run: RunRecord) -> dict[str, float]:
    """1 for a night that is as good as it should be, 0 for a regression; nothing for a run that is no night."""
    return {VERDICT: float(run.tags[VERDICT] == "ok")} if VERDICT in run.tags else {}


def step_tags(run: RunRecord, record: Record, data_fingerprints: Sequence[str], note: str) -> dict[str, str]:
    """What a step is searched by, the source that MLflow's table shows, and the note on its page."""
    words = {_allowed(name): value for name, value in record.metrics.items() if isinstance(value, str)}
    own = {"step": record.name, FINGERPRINT: record.fingerprint, "version": str(record.version)}
    data = {DATA_FINGERPRINT: ", ".join(data_fingerprints), names.MLFLOW_RUN_NOTE: within_limit(note)}
    return _tags(words | own | data | _source(run, record.function) | {"git_commit": record.git_commit or ""})


def run_tags(run: RunRecord, records: Sequence[Record], cached: Sequence[Link], note: str) -> dict[str, str]:
    """What a run of an experiment is searched by, the MLflow runs of its cached steps among them, and its note."""
    commits = {record.git_commit: None for record in records if record.fingerprint in run.built}
    links = " ".join(link.run_id for link in cached)
    if len(cached) > MOST_LINKS:
        links = f"{len(cached)} runs: see {LINKS_FILE}"
    own = {"step": "experiment", RUN_KEY: run.key, "cached_runs": links, names.MLFLOW_RUN_NOTE: within_limit(note)}
    source = _source(run, f"amalgam run {run.experiment}") | {"git_commit": next(iter(commits), None) or ""}
    return _tags(own | source | run.tags)


def is_read_by_people(file: Path) -> bool:
    """Whether a file of a target, such as the frontier picture, also belongs on the page of the whole run."""
    return file.suffix in READ_BY_PEOPLE and staged_rows(file) is None


def _metric(name: str, value: float, seconds: float, step: int) -> Metric:
    return Metric(_allowed(name), value, milliseconds(seconds), step)


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value}


def _source(run: RunRecord, what: str) -> dict[str, str]:
    """Who ran what: MLflow's columns User, Source and Version, the last being the commit of the user's own code."""
    origin = run.origin
    return {
        names.MLFLOW_USER: origin.get("user", ""),
        names.MLFLOW_SOURCE_NAME: what,
        names.MLFLOW_SOURCE_TYPE: "LOCAL",
        names.MLFLOW_GIT_COMMIT: origin.get("commit", "").partition("+")[0],
        "command": origin.get("command", ""),
    }


def _allowed(name: str) -> str:
    """The name without what MLflow refuses in names: odd characters, and what a path would not keep."""
    parts = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)[:250].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _shortened(value: str) -> str:
    """A value that fits a column; the whole one is in the record."""
    if len(value) <= PARAM_LIMIT:
        return value
    return f"{value[: PARAM_LIMIT - 40]}... ({len(value)} characters, see step.json)"
