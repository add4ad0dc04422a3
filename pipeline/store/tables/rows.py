"""Activation rows in Parquet: one row per example, one fixed-size list per site.

Columns are `example_id`, `label`, `split`, `domain`, `view`, then per site a list of `units * positions` values, units
first. Staged activations of members and features of CLIP encoders are both such rows.
Units and positions of each site, dtype and provenance lie in the file's metadata, so a file explains itself.
The writer and every reader stream: memory is a few row groups, whatever the number of examples.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import open_parquet, stream
from amalgam.pipeline.store.tables.rows_schema import KEY_COLUMNS, SCHEMA_KEY, RowsSchema

DIGEST_KEY = b"amalgam.digest"
MEBIBYTE = 2**20
READ_KEYS = ("example_id", "label", "domain", "view")


@dataclass(frozen=True)
class Rows:
    """A batch of rows, in memory of its own."""

    ids: NDArray[np.int64]
    """Index of each example in its split, (batch,)."""
    labels: NDArray[np.int64]
    """Class of each example, (batch,)."""
    domains: NDArray[np.str_]
    """Where each example is from, such as a style or a camera; empty where nobody said, (batch,)."""
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


class RowsWriter:
    """Write activation rows batch by batch, in a `with` block; the file is there only if the block succeeds.

    Row groups are compressed on a thread of their own while the next batch is computed.
    """

    def __init__(self, path: Path, schema: RowsSchema, row_group_bytes: int = 16 * MEBIBYTE) -> None:
        self.path, self.schema = path, schema
        self.num_rows = 0
        self._group_rows = max(1, row_group_bytes // schema.row_bytes)
        self._arrow = schema.arrow
        self._waiting: list[pa.RecordBatch] = []
        self._digests = {name: hashlib.sha256() for name in self._arrow.names}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(written_whole(self.path))
            self._file = stack.enter_context(self._parquet(partial))
            self._thread = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows"))
            self._open = stack.pop_all()
        self._group: Future[None] | None = None
        return self

    def write(
        self,
        ids: ArrayLike,
        labels: ArrayLike,
        split: str,
        sites: Mapping[str, ArrayLike],
        domain: str | Sequence[str] = "",
        view: int = 0,
    ) -> None:
        """Append a batch: ids and labels (batch,), and per site (batch, units * positions), or any such size.

        The values are copied: the caller may reuse its buffers. `domain` is that of all rows, or one for each. Raises
        ValueError if a site is missing, extra or of another width, or a value is not finite in the file's dtype.
        """
        ids, labels = np.asarray(ids, dtype=np.int64), np.asarray(labels, dtype=np.int64)
        if ids.ndim != 1 or ids.shape != labels.shape:
            raise ValueError(f"ids and labels must be lists of one length, got {ids.shape} and {labels.shape}")
        if sites.keys() != self.schema.sites.keys():
            raise ValueError(f"rows need the sites {sorted(self.schema.sites)}, got {sorted(sites)}")
        domains = [domain] * len(ids) if isinstance(domain, str) else list(domain)
        if len(domains) != len(ids):
            raise ValueError(f"rows need one domain, or one for each of {len(ids)}, got {len(domains)}")
        columns = (ids, labels, [split] * len(ids), domains, np.full(len(ids), view))
        keys = [pa.array(column, kind) for column, kind in zip(columns, KEY_COLUMNS.values(), strict=True)]
        lists = [self._list(site, np.asarray(sites[site]), len(ids)) for site in self.schema.sites]
        self._add(pa.RecordBatch.from_arrays(keys + lists, schema=self._arrow))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            self._finish()

    def _parquet(self, path: Path) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            path,
            self._arrow,
            compression="zstd",
            # Dense values are left as they are, which doubles the speed of reading; rectified ones still lose 40 %.
            compression_level=-1,
            use_dictionary=["split", "domain", "view"],
            use_byte_stream_split=[f"{site}.list.element" for site in self.schema.sites],
            write_statistics=list(KEY_COLUMNS),
            write_page_checksum=True,
        )

    def _list(self, site: str, values: NDArray, num_rows: int) -> pa.FixedSizeListArray:
        width = self.schema.width(site)
        if values.size != num_rows * width:
            raise ValueError(f"site {site!r} needs {num_rows} rows of {width} values, got {values.shape}")
        with np.errstate(over="ignore"):
            stored = np.array(values, dtype=self.schema.dtype, order="C").reshape(-1)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"an activation at {site!r} is NaN, infinite or beyond {self.schema.dtype} "
                f"({np.finfo(self.schema.dtype).max:g}): store float32, or look for NaN in the weights"
            )
        return pa.FixedSizeListArray.from_arrays(pa.array(stored), type=self._arrow.field(site).type)

    def _add(self, batch: pa.RecordBatch) -> None:
        self.num_rows += batch.num_rows
        while batch.num_rows:
            room = self._group_rows - sum(part.num_rows for part in self._waiting)
            self._waiting.append(batch.slice(0, room))
            batch = batch.slice(room)
            if self._waiting[-1].num_rows == room:
                self._flush()

    def _flush(self) -> None:
        """Hand the waiting rows to the writing thread, once it has finished the group before."""
        self._join()
        if self._waiting:
            table, self._waiting = pa.Table.from_batches(self._waiting, self._arrow), []
            self._group = self._thread.submit(self._write_group, table)

    def _join(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.result()

    def _write_group(self, table: pa.Table) -> None:
        self._file.write_table(table, row_group_size=len(table))
        for name, digest in self._digests.items():
            for chunk in table.column(name).chunks:
                digest.update(_values(chunk).data)

    def _finish(self) -> None:
        if not self.num_rows:
            raise ValueError(f"no activation rows to write to {self.path}: the probe split is empty")
        self._flush()
        self._join()
        whole = hashlib.sha256(str(list(self._digests)).encode())
        for digest in self._digests.values():
            whole.update(digest.digest())
        self._file.add_key_value_metadata({DIGEST_KEY: whole.hexdigest()[:32]})
        self._file.close()


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
    try:
        file = open_parquet(path)
    except FileNotFoundError:
        raise ValueError(f"no activation rows at {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path) from error
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
    try:
        for table in stream(path, metadata, [*READ_KEYS, *sites], batch_size, groups):
            if view is not None:
                table = table.filter(pc.equal(table.column("view"), view))
            if not len(table):
                continue
            values = {site: _owned(table.column(site)).reshape(len(table), -1) for site in sites}
            ids, labels, domains, views = (_owned(table.column(name)) for name in READ_KEYS)
            yield Rows(ids, labels, domains, views, values)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path) from error


def _may_hold(metadata: pq.FileMetaData, group: int, view: int) -> bool:
    """Whether a row group may hold a row of that view, by its footer."""
    facts = metadata.row_group(group).column(list(KEY_COLUMNS).index("view")).statistics
    return facts is None or not facts.has_min_max or facts.min <= view <= facts.max


def _owned(column: pa.ChunkedArray) -> NDArray:
    """A flat, writable copy: torch refuses memory that Arrow shares, and Arrow can free its own."""
    if pa.types.is_string(column.type):
        names = column.combine_chunks().dictionary_encode()  # few names for many rows
        return np.array(names.dictionary.to_pylist(), dtype=np.str_)[names.indices.to_numpy()]
    return np.concatenate([_values(chunk) for chunk in column.chunks])


def _values(column: pa.Array) -> NDArray:
    """The values of a column as one flat array, without a copy where they are numbers."""
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy()
    if pa.types.is_string(column.type):
        return np.frombuffer("\0".join([*column.to_pylist(), ""]).encode(), dtype=np.uint8)
    return column.to_numpy()


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is cut short or damaged: delete its folder to build it again")
