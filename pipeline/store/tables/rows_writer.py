"""Write activation rows as they come: groups of rows of some megabytes, in Parquet, with a digest of all values."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.rows_schema import DIGEST_KEY, KEY_COLUMNS, RowsSchema, values_of

MEBIBYTE = 2**20
FAST, SMALL = -1, 1  # levels of zstd
MOSTLY_ZERO = 0.7  # share of zeros from which runs of them compress better than bytes apart


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
            self._partial = stack.enter_context(written_whole(self.path))
            self._file: pq.ParquetWriter | None = None
            stack.callback(self._close)
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

    def _parquet(self, first: pa.Table) -> pq.ParquetWriter:
        """A file whose compression suits the values of its first row group (`python -m benchmarks storage`)."""
        half = self.schema.dtype == "float16"
        leaves = {site if half else f"{site}.list.element": first.column(site) for site in self.schema.sites}
        # Single precision compresses byte by byte, but for runs of zeros; half precision is to be read fast.
        split = [leaf for leaf, column in leaves.items() if not half and _share_of_zeros(column) < MOSTLY_ZERO]
        return pq.ParquetWriter(
            self._partial,
            self._arrow,
            compression="zstd",
            compression_level={leaf: SMALL if leaf in split else FAST for leaf in (*KEY_COLUMNS, *leaves)},
            use_dictionary=["split", "domain", "view"],
            use_byte_stream_split=split or False,
            write_statistics=list(KEY_COLUMNS),
            write_page_checksum=True,
        )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _list(self, site: str, values: NDArray, num_rows: int) -> pa.Array:
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
        kind = self._arrow.field(site).type
        if pa.types.is_fixed_size_binary(kind):
            return pa.FixedSizeBinaryArray.from_buffers(kind, num_rows, [None, pa.py_buffer(stored)])
        return pa.FixedSizeListArray.from_arrays(pa.array(stored), type=kind)

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
        self._file = self._file or self._parquet(table)
        self._file.write_table(table, row_group_size=len(table))
        for name, digest in self._digests.items():
            for chunk in table.column(name).chunks:
                digest.update(values_of(chunk).data)

    def _finish(self) -> None:
        if not self.num_rows:
            raise ValueError(f"no activation rows to write to {self.path}: there are no examples")
        self._flush()
        self._join()
        whole = hashlib.sha256(str(list(self._digests)).encode())
        for digest in self._digests.values():
            whole.update(digest.digest())
        assert self._file, "rows were written"
        self._file.add_key_value_metadata({DIGEST_KEY: whole.hexdigest()[:32]})


def _share_of_zeros(column: pa.ChunkedArray) -> float:
    parts = [values_of(chunk) for chunk in column.chunks]
    return 1 - sum(map(np.count_nonzero, parts)) / max(1, sum(part.size for part in parts))
