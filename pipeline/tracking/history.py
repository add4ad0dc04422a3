"""The history of a metric, by step: from a table in Parquet or CSV, or from a run in MLflow; weights out of it."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import reading
from amalgam.tasks.merging.weights.providers import MWA
from amalgam.tasks.user_names import unknown_name

STEP = "step"
"""The column that says when the others were measured."""
History = Mapping[int, float]


def read_history(source: str, metric: str, tracking_uri: str | None = None) -> dict[int, float]:
    """Values of a metric by step, of a .parquet or .csv file with a column `step`, or of an MLflow run by id.

    Raises ValueError if the source is absent, lacks the metric (with near names), or holds NaN.
    """
    readers = {".csv": _of_csv, ".parquet": _of_parquet}
    reader = readers.get(Path(source).suffix)
    found = reader(Path(source), metric) if reader else _of_run(source, metric, tracking_uri)
    if bad := [step for step, value in found.items() if not math.isfinite(value)]:
        raise ValueError(f"{metric!r} of {source} is {found[bad[0]]} at step {bad[0]}: weights need finite values")
    return found


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one row a step, its metrics beside `step`; a metric that a step lacks is null there."""
    names = dict.fromkeys(name for row in rows for name in row if name != STEP)
    columns = {STEP: pa.array([int(row[STEP]) for row in rows], pa.int64())}
    columns |= {name: pa.array([row.get(name) for row in rows], pa.float64()) for name in names}
    with written_whole(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd", write_page_checksum=True)


def checkpoint_weights(history: History, rule: MWA, count: int, steps: Sequence[int] = ()) -> tuple[float, ...]:
    """The weights of `count` checkpoints, saved at `steps`; without them, at the last steps of the history.

    Raises ValueError if the history lacks a step or is too short.
    """
    chosen = list(steps) or sorted(history)[-count:]
    if len(chosen) != count:
        what = "steps were given" if steps else "steps are in the history"
        raise ValueError(f"there are {count} checkpoints, but {len(chosen)} {what}: give --steps, one for each")
    if missing := [step for step in chosen if step not in history]:
        near = min(history, key=lambda step: abs(step - missing[0]))
        raise ValueError(f"the metric was not measured at step {missing[0]}; the nearest is step {near}")
    return rule([float(step) if rule.by == "step" else history[step] for step in chosen])


def _of_parquet(path: Path, metric: str) -> dict[int, float]:
    with reading(path, "history"):
        table = pq.read_table(path, page_checksum_verification=True)
    _require(path, table.column_names, metric)
    pairs = zip(table[STEP].to_pylist(), table[metric].to_pylist(), strict=True)
    return {step: float(value) for step, value in pairs if value is not None}


def _require(path: Path, columns: Iterable[str], metric: str) -> None:
    for name in (STEP, metric):
        if name not in columns:
            raise unknown_name(f"column of {path}", name, columns)


def _of_csv(path: Path, metric: str) -> dict[int, float]:
    if not path.is_file():
        raise ValueError(f"no history at {path}")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        _require(path, reader.fieldnames or (), metric)
        try:
            return {int(row[STEP]): float(row[metric]) for row in reader if row[metric]}
        except ValueError as error:
            raise ValueError(f"{path} must hold whole steps and numbers: {error}") from error


def _of_run(run_id: str, metric: str, tracking_uri: str | None) -> dict[int, float]:
    from mlflow import MlflowClient  # here, not above: it takes a second to import
    from mlflow.exceptions import MlflowException

    if tracking_uri is None:
        raise ValueError(
            f"{run_id} is no .parquet or .csv file; to read the MLflow run of that id, give --tracking-uri"
        )
    client = MlflowClient(tracking_uri)
    try:
        known = client.get_run(run_id).data.metrics
    except MlflowException as error:
        raise ValueError(
            f"there is no file and no MLflow run {run_id!r} ({error.error_code}): check the id and --tracking-uri"
        ) from error
    if metric not in known:
        raise unknown_name(f"metric of run {run_id}", metric, known)
    return {point.step: point.value for point in client.get_metric_history(run_id, metric)}
