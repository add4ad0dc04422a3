"""Activation rows in Parquet, read back: one row per example, one fixed-size list per site.

Columns are `example_id`, `label`, `split`, `domain`, `view`, then per site a list of `units * positions` values, units
first. Staged activations of members and features of CLIP encoders are both such rows.
Units and positions of each site, dtype and provenance lie in the file's metadata, so a file explains itself.
The writer (`rows_writer`) and every reader stream: memory is a few row groups, whatever the number of examples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from amalgam.pipeline.store.tables.parquet_stream import open_parquet, reading, stream
from amalgam.pipeline.store.tables.rows_schema import DIGEST_KEY, KEY_COLUMNS, SCHEMA_KEY, RowsSchema, values_of

READ_KEYS = ("example_id", "label", "domain", "view")


@dataclass(frozen=True)
class Rows:
    """A batch of rows, in memory of its own."""

    ids: NDArray[np.int64]
    """Index of each example in its split, (batch,)."""
    labels: NDArray[np.int64]
    """Class of each example, (batch,)."""
    domains: NDArray[np.str_]
    """Where each example is from, such as a style or a camera; empty where unknown, (batch,)."""
    views: NDArray[np.int16]
    """Which augmentation of each example was taken, 0 where there is one only, (batch,)."""
    sites: dict[str, NDArray[np.floating]]
    """Activations by site, (batch, units * positions)."""


@dataclass(frozen=True)
class RowsInfo:
    """What a file says of itself, read from its footer alone."""

    num_rows: int
    sites: dict[str, tuple[int, int]]
    """Units and positions by site."""
    dtype: str
    provenance: dict[str, str]
    digest: str
    """32 hex digits of the SHA-256 of the values, the same however they were batched or compressed."""
    schema: str
    """The columns in words, one a line."""


def read_rows(
    path: Path, sites: Sequence[str] | None = None, batch_size: int = 1024, view: int | None = None
) -> Iterator[Rows]:
    """Stream the rows in the order they were written, only the named sites, or those of one view, if given.

    Row groups without a row of that view are not decoded.

    Raises ValueError if the file is absent, cut short, damaged or of another kind, or a site is unknown.
    """
    file, schema = _open(path)
    file.close()
    wanted = list(schema.sites if sites is None else sites)
    if unknown := [site for site in wanted if site not in schema.sites]:
        raise ValueError(f"{path} has no site {unknown[0]!r}: it has {', '.join(schema.sites)}")
    return _stream(path, file.metadata, wanted, batch_size, view)


def describe(path: Path) -> RowsInfo:
    """What the file holds, from its footer alone. Raises ValueError as `read_rows` does."""
    file, schema = _open(path)
    with file:
        footer = file.metadata
        columns = "\n".join(f"{field.name}: {field.type}" for field in schema.arrow)
        digest = footer.metadata[DIGEST_KEY].decode()
        return RowsInfo(footer.num_rows, schema.sites, schema.dtype, schema.provenance, digest, columns)


def _open(path: Path) -> tuple[pq.ParquetFile, RowsSchema]:
    with reading(path, "activation rows"):
        file = open_parquet(path)
    try:
        return file, _schema(path, file)
    except ValueError:
        file.close()
        raise


def _schema(path: Path, file: pq.ParquetFile) -> RowsSchema:
    columns = file.schema_arrow
    try:
        schema = RowsSchema.model_validate_json((columns.metadata or {})[SCHEMA_KEY])
    except (KeyError, ValidationError) as error:
        raise ValueError(f"{path} is no file of activation rows: its columns are {columns.names}") from error
    if not columns.equals(schema.arrow) or DIGEST_KEY not in file.metadata.metadata:
        raise ValueError(f"{path} was not written as activation rows, though its metadata says so")
    return schema


def _stream(
    path: Path, metadata: pq.FileMetaData, sites: list[str], batch_size: int, view: int | None
) -> Iterator[Rows]:
    groups = None if view is None else [n for n in range(metadata.num_row_groups) if _may_hold(metadata, n, view)]
    with reading(path, "activation rows"):
        for table in stream(path, metadata, [*READ_KEYS, *sites], batch_size, groups):
            if view is not None:
                table = table.filter(pc.equal(table.column("view"), view))
            if not len(table):
                continue
            values = {site: _owned(table.column(site)).reshape(len(table), -1) for site in sites}
            ids, labels, domains, views = (_owned(table.column(name)) for name in READ_KEYS)
            yield Rows(ids, labels, domains, views, values)


def _may_hold(metadata: pq.FileMetaData, group: int, view: int) -> bool:
    """Whether a row group may hold a row of that view, by its footer."""
    facts = metadata.row_group(group).column(list(KEY_COLUMNS).index("view")).statistics
    return facts is None or not facts.has_min_max or facts.min <= view <= facts.max


def _owned(column: pa.ChunkedArray) -> NDArray:
    """A flat, writable copy: torch refuses memory that Arrow shares, and Arrow can free its own."""
    if pa.types.is_string(column.type):
        names = column.combine_chunks().dictionary_encode()  # few names for many rows
        return np.array(names.dictionary.to_pylist(), dtype=np.str_)[names.indices.to_numpy()]
    return np.concatenate([values_of(chunk) for chunk in column.chunks])
