"""Results on disk: one tidy Parquet table a step, a row for each network, test set and metric."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import reading
from amalgam.tasks.scoring.results import Network, Result

RESULTS = "results.parquet"
IDENTITY = pa.schema(
    [
        ("kind", pa.string()),
        ("method", pa.string()),
        ("weights", pa.list_(pa.float64())),
        ("recalibrated", pa.bool_()),
        ("refitted", pa.bool_()),
        ("finetuned", pa.bool_()),
        ("member", pa.int64()),
        ("seed", pa.int64()),
    ]
)
MEASURED = pa.schema(
    [
        ("role", pa.string()),
        ("test_set", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
SETTINGS = "settings"
"""The column of a method's settings: a struct with a field for each, null where a network has no such setting."""


def write_results(results: Sequence[Result], folder: Path) -> None:
    """Write `results.parquet`: who was measured, on what, by which metric, the value and the ends of its interval."""
    rows = [result.network.model_dump() | asdict(result) for result in results]
    named = [dict(result.network.settings) or None for result in results]
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in (*IDENTITY, *MEASURED)}
    columns |= {SETTINGS: pa.array(named)}
    with written_whole(folder / RESULTS) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


def read_results(folder: Path) -> list[Result]:
    """The results of a step. Raises ValueError if it has none, or its table is damaged or of another kind."""
    path = folder / RESULTS
    with reading(path, "results"):
        rows = pq.read_table(path).to_pylist()
    try:
        return [_result(row) for row in rows]
    except (KeyError, ValidationError) as error:
        raise ValueError(f"{path} is no table of results: delete its folder to build it again") from error


def read_all(folders: Iterable[Path]) -> list[Result]:
    """The results of several steps, one after the other."""
    return [result for folder in folders for result in read_results(folder)]


def _result(row: dict[str, Any]) -> Result:
    settings = {name: value for name, value in (row[SETTINGS] or {}).items() if value is not None}
    identity = {name: row[name] for name in IDENTITY.names}
    return Result(Network(**identity, settings=settings), **{name: row[name] for name in MEASURED.names})
