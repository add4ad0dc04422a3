"""Per-example predictions in Parquet, so that every metric, interval and paired test can be recomputed.

One row per network, test set and example; a row group is the predictions of one network on one test set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import open_parquet, reading
from amalgam.tasks.scoring.metrics import NO_GROUP, Predictions

PREDICTIONS = "predictions.parquet"
WORDS = ("test_set", "role", "network", "group")
SCHEMA = pa.schema(
    [
        pa.field("example_id", pa.int64(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in WORDS[:3]),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("prediction", pa.int64(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("nll", pa.float32(), nullable=False),
        pa.field("group", pa.string()),  # null of an example that belongs to none
        pa.field("sources", pa.list_(pa.int64())),  # what it was made from; null of an example that is its own
    ]
)
COLUMNS = {
    "ids": "example_id",
    "labels": "label",
    "classes": "prediction",
    "confidence": "confidence",
    "nll": "nll",
}


@dataclass(frozen=True)
class Answers:
    """The predictions of one network on one test set."""

    test_set: str
    role: str
    network: str
    """Short text, such as "alpha=0.5"."""
    predictions: Predictions


def write_predictions(path: Path, answers: Iterable[Answers]) -> None:
    """Write them as they come, one test set of one network in memory; the file is there whole or not at all."""
    options = {"compression": "zstd", "use_dictionary": list(WORDS), "write_page_checksum": True}
    with written_whole(path) as partial, pq.ParquetWriter(partial, SCHEMA, **options) as file:
        for part in answers:
            table = _table(part)
            file.write_table(table, row_group_size=len(table))


def read_predictions(path: Path, networks: Iterable[str] | None = None) -> Iterator[Answers]:
    """What was written, in that order; only of some networks if named.

    Raises ValueError if the file is absent, damaged or of another kind.
    """
    with reading(path, "predictions"), open_parquet(path) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise ValueError(f"{path} holds no predictions: its columns are {file.schema_arrow.names}")
        wanted = None if networks is None else set(networks)
        for group in range(file.num_row_groups):
            if wanted is None or file.read_row_group(group, ["network"])["network"][0].as_py() in wanted:
                yield _answers(file.read_row_group(group))


def _table(answers: Answers) -> pa.Table:
    predictions, count = answers.predictions, len(answers.predictions.ids)
    words = {name: pa.array([getattr(answers, name)] * count) for name in WORDS[:3]}
    values = {column: pa.array(getattr(predictions, name).numpy()) for name, column in COLUMNS.items()}
    places = pa.array(predictions.groups.numpy(), mask=(predictions.groups == NO_GROUP).numpy())
    names = pa.array(predictions.group_names, pa.string()).take(places)
    kind, made_of = SCHEMA.field("sources").type, predictions.sources
    sources = pa.nulls(count, kind) if made_of is None else pa.array(made_of.tolist(), kind)
    columns = words | values | {"group": names, "sources": sources}
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _answers(table: pa.Table) -> Answers:
    first = {name: table[name][0].as_py() for name in WORDS[:3]}
    coded = table["group"].combine_chunks().dictionary_encode()
    groups = torch.from_numpy(coded.indices.fill_null(NO_GROUP).to_numpy().astype("int64"))
    columns = {name: _tensor(table[column]) for name, column in COLUMNS.items()}
    if table["sources"].null_count == 0:
        columns["sources"] = torch.tensor(table["sources"].to_pylist(), dtype=torch.int64)
    return Answers(
        **first,
        predictions=Predictions(**columns, groups=groups, group_names=tuple(coded.dictionary.to_pylist())),
    )


def _tensor(column: pa.ChunkedArray) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())  # torch refuses memory that Arrow shares
