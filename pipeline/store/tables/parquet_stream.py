"""Read a Parquet file as a stream: row groups are decoded ahead on Arrow's threads while the last batch is used.

Decoding, not the disk, is what takes time, and columns of one group, like groups of one column, can be decoded side by
side. How many threads do so is Arrow's own setting (`pyarrow.set_cpu_count`), which a step sets to its share of cores.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BUFFER = 2**20  # bytes read from the disk at once, rather than a whole column
MOST_AHEAD = 4  # row groups; enough for a file of one column to keep up with a fast disk, and memory stays small


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Raise ValueError if what is read in the block, such as "predictions", is not at `path`, cut short or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"no {what} at {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged: delete its folder to build it again") from error


def read_marked(path: Path, mark: bytes, what: str) -> pa.Table:
    """A whole table whose metadata has `mark`. Raises ValueError if it is absent, damaged or of another kind."""
    with reading(path, what):
        table = pq.read_table(path, page_checksum_verification=True)
    if mark not in (table.schema.metadata or {}):
        raise ValueError(f"{path} holds no {what}: its columns are {table.schema.names}")
    return table


def open_parquet(path: Path, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """The file, its pages to be checked as they are read; `metadata`, if known, spares parsing its footer."""
    return pq.ParquetFile(
        path, metadata=metadata, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True
    )


def stream(
    path: Path, metadata: pq.FileMetaData, columns: Sequence[str], batch_size: int, only: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """The rows in order, in tables of exactly `batch_size`, the last one maybe smaller; of row groups `only`, if given.

    Memory is one row group for every two threads (at most four), whose columns are decoded side by side, and one more.
    Raises what Arrow does if a page is damaged.
    """
    rest = metadata.schema.to_arrow_schema().empty_table().select(columns)
    for group in _groups(path, metadata, columns, range(metadata.num_row_groups) if only is None else only):
        table = pa.concat_tables([rest, group])
        whole = len(table) - len(table) % batch_size
        yield from (table.slice(start, batch_size) for start in range(0, whole, batch_size))
        # A copy: a slice would keep the whole group in memory.
        rest = table.take(pa.array(range(whole, len(table)), pa.int64()))
        del table, group
    if len(rest):
        yield rest


def _groups(path: Path, metadata: pq.FileMetaData, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[pa.Table]:
    def group(number: int) -> pa.Table:
        with open_parquet(path, metadata) as file:  # A reader of its own: two threads cannot share one.
            return file.read_row_group(number, columns, use_threads=True)

    numbers, ahead = iter(wanted), min(max(1, pa.cpu_count() // 2), MOST_AHEAD)
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="parquet")
    try:
        coming = deque(pool.submit(group, number) for number in islice(numbers, ahead))
        while coming:
            table = coming.popleft().result()
            coming.extend(pool.submit(group, number) for number in islice(numbers, 1))
            yield table
    finally:
        pool.shutdown(cancel_futures=True)
