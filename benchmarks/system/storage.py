"""Activation rows written and read beside .npy files of the same values, and the space they take.

16,384 rows of 512 values, normal ones (dense), their positive parts (half zeros), and those above 1.28 (a tenth), in
single and half precision. Rows are what steps stage: keys, checksums, a digest, no bit lost; a .npy file has none of
these. Both lie in the page cache, and time is that of the processor on all threads, so that other jobs do not count; of
several rounds the best.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.store.tables.rows import read_rows
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import MEBIBYTE, RowsWriter
from benchmarks.measure import Measure, report

WIDTH, BATCH = 512, 1024
LEAST = {"dense": -np.inf, "half zeros": 0.0, "nine tenths zeros": 1.28}


def measure(num_rows: int = 16_384, rounds: int = 5) -> list[Measure]:
    """Space as a share of the values, and speeds in MiB of values per second."""
    normal = np.random.default_rng(0).standard_normal((num_rows, WIDTH), dtype=np.float32)
    found = list[Measure]()
    with threads(1), tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float16"):
            for kind, least in LEAST.items():
                values = np.where(normal > least, normal, 0).astype(dtype)
                found += compare(Path(folder), f"{dtype}, {kind}: ", values, rounds)
    return found


def compare(folder: Path, where: str, values: NDArray, rounds: int) -> list[Measure]:
    """One kind of values in both formats."""
    rows, plain, size = folder / "rows.parquet", folder / "rows.npy", values.nbytes / MEBIBYTE
    speeds = {
        ".npy, written": size / processor_time(lambda: np.save(plain, values), rounds),
        ".npy, read": size / processor_time(lambda: np.load(plain), rounds),
        "rows, written": size / processor_time(lambda: write(rows, values), rounds),
        "rows, read": size / processor_time(lambda: read(rows), rounds),
    }
    share = 100 * rows.stat().st_size / plain.stat().st_size
    space = Measure(where + "space of rows, of .npy", share, "%", at_most=105)  # keys, for what does not compress
    return [space, *(Measure(where + name, speed, "MiB/s") for name, speed in speeds.items())]


def write(path: Path, values: NDArray) -> None:
    """All values as staged rows."""
    with RowsWriter(path, RowsSchema(sites={"x": (WIDTH, 1)}, dtype=values.dtype.name)) as writer:
        for start in range(0, len(values), BATCH):
            part = values[start : start + BATCH]
            ids = np.arange(start, start + len(part))
            writer.write(ids, ids % 10, "train", {"x": part})


def read(path: Path) -> None:
    """Every row, into memory of its own."""
    for _ in read_rows(path, batch_size=BATCH):
        pass


def processor_time(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the processor for one call, on all threads, at best."""
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return float(best)


if __name__ == "__main__":
    report(__doc__, measure, tiny={"num_rows": 256, "rounds": 1})
