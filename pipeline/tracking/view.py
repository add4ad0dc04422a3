"""What MLflow shows of a step's record and of a run's: params, metrics, tags, data sets and notes, as plain values.

Names are the same in every run, so that runs compare: a param is the path of a setting in the config, a metric is
what the step called it (`test/accuracy`, `cost/flops`, ...); every step has `usage/seconds` and `usage/bytes`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.utils import mlflow_tags as names

from amalgam.pipeline.store.artifact import Point, Record
from amalgam.pipeline.store.record_text import flat
from amalgam.pipeline.store.tables.rows import RowsInfo, describe
from amalgam.pipeline.store.tables.rows_schema import KEY_COLUMNS
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import TRAINING_VIEW

FINGERPRINT, RUN_KEY, DATA_FINGERPRINT, VERDICT = "fingerprint", "run", "data_fingerprint", "verdict"
READ_BY_PEOPLE = {".png", ".svg", ".html", ".csv", ".parquet", ".md", ".txt"}
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the UI asks every visitor what kind this is
    names.MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: "test/accuracy",
    names.MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER: "True",
}
PARAM_LIMIT = 500  # nobody compares longer ones, and MLflow warns of those it cuts off itself
NOTE_LIMIT = 7500  # MLflow refuses tags beyond 8000 characters, and a note is one.

MOST_LINKS = 200  # run ids in one tag; more are a file of the run
LINKS_FILE = "cached_runs.txt"


@dataclass(frozen=True)
class Link:
    """A step and the MLflow run that shows it."""

    title: str
    key: str
    experiment_id: str
    run_id: str

    def __str__(self) -> str:
        return f"[{self.title}](#/experiments/{self.experiment_id}/runs/{self.run_id}?{TRAINING_VIEW}) `{self.key}`"


def params(config: Mapping[str, Any]) -> list[Param]:
    """One param per setting, named by its path; a model's class stands at the path of the model itself."""
    return [Param(_allowed(path), _shortened(value)) for path, value in flat(config).items()]


def step_metrics(record: Record, curves: Sequence[Point]) -> list[Metric]:
    """The curves, then the summary at each curve's last step, so that columns show the summary."""
    last_step: dict[str, int] = {}
    for point in curves:
        last_step[point.metric] = max(point.step, last_step.get(point.metric, 0))
    summary = numbers(record.metrics) | {"usage/seconds": record.seconds, "usage/bytes": float(record.bytes)}
    ended = record.started + record.seconds + 0.001  # later than the last point, whose millisecond it may share
    last = [_metric(name, value, ended, last_step.get(name, 0)) for name, value in summary.items()]
    return [_metric(point.metric, point.value, point.time, point.step) for point in curves] + last


def run_metrics(run: RunRecord, targets: Iterable[Record]) -> list[Metric]:
    """The targets' summaries, and how long the run took."""
    seconds = run.seconds or 0
    summary = {name: value for record in targets for name, value in numbers(record.metrics).items()}
    return [
        _metric(name, value, run.started + seconds, 0)
        for name, value in (summary | {"usage/seconds": seconds} | _verdict(run)).items()
    ]


def _verdict(run: RunRecord) -> dict[str, float]:
    """1 for a night that is as good as it should be, 0 for a regression; nothing for a run that is no night."""
    return {VERDICT: float(run.tags[VERDICT] == "ok")} if VERDICT in run.tags else {}


def step_tags(record: Record, data_fingerprints: Sequence[str], note: str) -> dict[str, str]:
    """What a step is searched by, the source that MLflow's table shows, and the note on its page."""
    words = {_allowed(name): value for name, value in record.metrics.items() if isinstance(value, str)}
    own = {"step": record.name, FINGERPRINT: record.fingerprint, "version": str(record.version)}
    data = {DATA_FINGERPRINT: ", ".join(data_fingerprints), names.MLFLOW_RUN_NOTE: note}
    return _tags(words | own | data | _source(record.function, record.git_commit))


def run_tags(run: RunRecord, records: Sequence[Record], cached: Sequence[Link], note: str) -> dict[str, str]:
    """What a run of an experiment is searched by, the MLflow runs of its cached steps among them, and its note."""
    commits = {record.git_commit: None for record in records if record.fingerprint in run.built}
    source = _source(f"amalgam run {run.experiment}", next(iter(commits), None))
    links = " ".join(link.run_id for link in cached)
    if len(cached) > MOST_LINKS:
        links = f"{len(cached)} runs: see {LINKS_FILE}"
    return _tags(
        {"step": "experiment", RUN_KEY: run.key, "cached_runs": links, names.MLFLOW_RUN_NOTE: note} | source | run.tags
    )


def is_read_by_people(file: Path) -> bool:
    """Whether a file of a target, such as the frontier picture, also belongs on the page of the whole run."""
    return file.suffix in READ_BY_PEOPLE and staged_rows(file) is None


@dataclass(frozen=True)
class StagedRows:
    """A file of activation rows, and what it says of itself."""

    file: Path
    info: RowsInfo


def staged_rows(file: Path) -> StagedRows | None:
    """The file with its description, or None if it holds no activation rows."""
    try:
        return StagedRows(file, describe(file))
    except ValueError:
        return None


def dataset(rows: StagedRows, context: str) -> DatasetInput:
    """Staged rows as a data set: where they lie and what they are, not a copy of them."""
    file, info = rows.file, rows.info
    sites = [(site, f"{info.dtype}[{units}, {positions}]") for site, (units, positions) in info.sites.items()]
    keys = [(name, "string" if name in ("split", "domain") else "long") for name in KEY_COLUMNS]
    described = Dataset(
        name=f"{file.parent.name}/{file.name}",
        digest=info.digest,
        source_type="local",
        source=json.dumps({"uri": file.absolute().as_uri()}),
        schema=json.dumps({"mlflow_colspec": [{"name": column, "type": kind} for column, kind in keys + sites]}),
        profile=json.dumps({"num_rows": info.num_rows, "num_sites": len(info.sites)} | info.provenance),
    )
    return DatasetInput(described, tags=[InputTag(names.MLFLOW_DATASET_CONTEXT, context)])


def step_note(record: Record, folder: Path, inputs: Sequence[Link]) -> str:
    """How the step was made and from what, in Markdown."""
    made = f"Built by `{record.function}` in {record.seconds:.1f} s. Files: `{folder}`"
    host = [f"{name} {value}" for name, value in record.host.items()]
    return _within_limit([made, *_listing("Reads", inputs), *_listing("Built on", host)])


def run_note(run: RunRecord, run_id: str, built: Sequence[Link], cached: Sequence[Link], files: Sequence[Path]) -> str:
    """The result at a glance: the first table and picture among the files, then what was built and what was found."""
    tables = [file.read_text().strip() for file in files if file.suffix == ".md"]
    pictures = [file.name for file in files if file.suffix == ".png"]
    lines = [
        *(line for table in tables[:1] for line in table.splitlines()),
        *(f"\n![{name}](get-artifact?path={name}&run_uuid={run_id})" for name in pictures[:1]),
        *_listing("Failed", run.failures),
        *_listing(f"Built by this run: {len(built)} steps", built),
        *_listing(f"Found built: {len(cached)} steps, with the runs that show them", cached),
    ]
    return _within_limit(lines)


def numbers(metrics: Mapping[str, float | int | str]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, str)}


def _metric(name: str, value: float, seconds: float, step: int) -> Metric:
    return Metric(_allowed(name), value, int(1000 * seconds), step)


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value}


def _source(name: str, git_commit: str | None) -> dict[str, str]:
    """The commit twice: in full, with its mark of changes, and in the tag that fills MLflow's Version column."""
    commit = {"git_commit": git_commit, names.MLFLOW_GIT_COMMIT: git_commit.partition("+")[0]} if git_commit else {}
    return {names.MLFLOW_SOURCE_NAME: name, names.MLFLOW_SOURCE_TYPE: "LOCAL"} | commit


def _allowed(name: str) -> str:
    """The name without what MLflow refuses in names: odd characters, and what a path would not keep."""
    parts = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)[:250].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _listing(heading: str, items: Sequence[object]) -> list[str]:
    return [f"\n**{heading}**", "", *(f"* {item}" for item in items)] if items else []


def _within_limit(lines: Sequence[str]) -> str:
    """The lines as one text; past the limit the rest is counted instead."""
    kept, size = list[str](), 0
    for line in lines:
        size += len(line) + 1
        if size > NOTE_LIMIT:
            return "\n".join([*kept, f"* ... and {len(lines) - len(kept)} lines more"])
        kept.append(line)
    return "\n".join(kept)


def _shortened(value: str) -> str:
    """A value that fits a column; the whole one is in the record."""
    if len(value) <= PARAM_LIMIT:
        return value
    return f"{value[: PARAM_LIMIT - 40]}... ({len(value)} characters, see step.json)"
