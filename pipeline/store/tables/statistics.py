"""Statistics of members in Parquet: Fisher information, Grams, projected gradients, one row per block of an array.

A row holds at most `BLOCK` numbers of one array of one member. What the numbers were computed at (fingerprints of the
weights, of the data and of the basis, the estimator) lies in the file's metadata, so that foreign ones are refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import read_marked
from amalgam.tasks.merging.methods.method import Need
from amalgam.tasks.merging.staged import Statistics
from amalgam.tasks.scoring.sums import Sums

STATISTICS, METADATA = "statistics.parquet", b"amalgam.statistics"
KINDS: tuple[Need, ...] = ("fisher", "factored", "projected", "grams", "embeddings")
BLOCK = 65_536  # numbers of a row
GROUP = 256  # rows of a row group: 64 MB in single precision
FACTS = ("models", "basis", "estimator")
SUMS, COUNTS = "sums.parquet", b"amalgam.counts"


def _schema(number: pa.DataType, metadata: dict[bytes, str]) -> pa.Schema:
    return pa.schema([*KEYS, pa.field("values", pa.list_(number), nullable=False)], metadata=metadata)


KEYS = (
    pa.field("kind", pa.string(), nullable=False),
    pa.field("member", pa.int32(), nullable=False),
    pa.field("parameter", pa.string(), nullable=False),
    pa.field("block", pa.int32(), nullable=False),
    pa.field("shape", pa.list_(pa.int64()), nullable=False),
)


def write_statistics(folder: Path, statistics: Statistics, data: str | None = None) -> None:
    """Write the arrays of every kind into an existing folder; `data` names the examples that they were computed on."""
    facts = {name: getattr(statistics, name) for name in FACTS} | {"data": data}
    schema = _schema(pa.float32(), {METADATA: json.dumps(facts)})
    arrays = ((kind, member, one) for kind in KINDS for member, one in enumerate(statistics.of(kind)))
    _write(folder / STATISTICS, schema, _rows(arrays, torch.float32))


def write_sums(folder: Path, sums: Mapping[str, Sums]) -> None:
    """Write the sums of a shard by kind, in double precision, so that shards add up to the same numbers."""
    counts = {kind: one.num_examples for kind, one in sums.items()}
    schema = _schema(pa.float64(), {COUNTS: json.dumps(counts)})
    _write(folder / SUMS, schema, _rows(((kind, 0, one) for kind, one in sums.items()), torch.float64))


def read_sums(folder: Path) -> dict[str, Sums]:
    """The sums of a shard by kind. Raises ValueError as `read_statistics` does."""
    table = read_marked(folder / SUMS, COUNTS, "statistics")
    counts = json.loads(table.schema.metadata[COUNTS])
    return {kind: Sums(_members(table, kind)[0], count) for kind, count in counts.items()}


def read_statistics(folder: Path, data: str | None = None) -> Statistics:
    """What was written, the rows in any order.

    Raises ValueError if the file is absent, damaged, of another kind, or was computed on other data than `data`.
    """
    table = read_marked(path := folder / STATISTICS, METADATA, "statistics")
    facts = json.loads(table.schema.metadata[METADATA])
    if data is not None and facts["data"] != data:
        raise ValueError(f"{path} was computed on other data: {facts['data']}, not {data}; stage it again")
    known: dict[str, Any] = {kind: found for kind in KINDS if (found := _members(table, kind))}
    return Statistics(**known, models=tuple(facts["models"]), basis=facts["basis"], estimator=facts["estimator"])


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> None:
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    with (
        written_whole(path) as partial,
        pq.ParquetWriter(partial, schema, use_dictionary=["kind", "parameter"], **options) as file,
    ):
        while group := list(islice(rows, GROUP)):
            file.write_table(pa.Table.from_pylist(group, schema=schema))


def _rows(arrays: Iterable[tuple[str, int, Mapping[str, Tensor]]], dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    for kind, member, tensors in arrays:
        for parameter, array in tensors.items():
            flat = array.detach().reshape(-1).to(dtype).numpy()
            for block, start in enumerate(range(0, max(1, len(flat)), BLOCK)):
                yield {
                    "kind": kind,
                    "member": member,
                    "parameter": parameter,
                    "block": block,
                    "shape": list(array.shape),
                    "values": flat[start : start + BLOCK],
                }


def _members(table: pa.Table, kind: str) -> tuple[dict[str, Tensor], ...]:
    """The arrays of one kind by member; an empty tuple if there are none."""
    rows = table.filter(pa.compute.equal(table["kind"], kind)).combine_chunks()
    if not len(rows):
        return ()
    blocks: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    shapes: dict[tuple[int, str], list[int]] = {}
    for index in range(len(rows)):
        key = (rows["member"][index].as_py(), rows["parameter"][index].as_py())
        shapes[key] = rows["shape"][index].as_py()
        blocks.setdefault(key, {})[rows["block"][index].as_py()] = rows["values"][index].values.to_numpy()
    members: list[dict[str, Tensor]] = [{} for _ in range(1 + max(member for member, _ in blocks))]
    for (member, name), parts in blocks.items():
        joined = np.concatenate([parts[number] for number in sorted(parts)])
        members[member][name] = torch.from_numpy(joined).reshape(shapes[member, name])
    return tuple(members)
