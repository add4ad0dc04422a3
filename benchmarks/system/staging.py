"""Staging activations of a CNN beside its bare forward pass, and reading them back beside plain reads of the file.

*Writing*: the same random 32x32 images pass through a CIFAR ResNet18 of half width, bare and staged in turn; staged
means what `pipeline.steps.fusion.activations` does: capture, summaries per unit, float32 rows in Parquet. Medians over
rounds, the ratio of those within a round: this host's speed comes in bursts.
*Reading*: all rows through `read_rows`, and the file's bytes through plain reads, with the file dropped from the page
cache (the disk's own speed, or that of a cache below it). Then, from the page cache, what decoding alone allows: rows
on one thread and on all, beside pyarrow's own decoder with nothing done to its values.
Of several rounds of reading the best counts, which is what each takes when nothing else is at work.
*Memory*: the peak of this process while it stages and reads a narrow VGG11, and what four times the images add to it,
once allocators, which keep what was freed, have settled.
"""

import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.store.tables.rows import read_rows
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import MEBIBYTE, RowsWriter
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.tracing.capture import capture, sites
from amalgam.tasks.tracing.trace import trace
from benchmarks.measure import Measure, report, seconds

BATCH, GRID, THREADS = 256, 2, 2
PEAK_UNIT = 1024  # bytes in which Linux counts ru_maxrss


def measure(num_batches: int = 8, rounds: int = 10, num_flat_batches: int = 48) -> list[Measure]:
    """Overhead of staging in percent, speed of reading, growth of memory."""
    with threads(THREADS), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.parquet"
        flat = memory(path, num_flat_batches)
        writing = overhead(path, num_batches, rounds)
        return [*writing, *reading(path, rounds), *flat]


def overhead(path: Path, num_batches: int, rounds: int) -> list[Measure]:
    """What staging adds to the forward pass."""
    network = Network("resnet18", 0.5)
    network.forward(2)
    network.stage(path, 2)
    pairs = [
        (seconds(lambda: network.forward(num_batches)), seconds(lambda: network.stage(path, num_batches)))
        for _ in range(rounds)
    ]
    images, slower = num_batches * BATCH, median(staged / bare for bare, staged in pairs)
    return [
        Measure("bare forward pass", images / median(bare for bare, _ in pairs), "images/s"),
        Measure("captured, summarised and written", images / median(staged for _, staged in pairs), "images/s"),
        Measure("values per image", network.schema.row_bytes / 1024, "KiB"),
        Measure("staging over the bare pass", (slower - 1) * 100, "%", at_most=20),
    ]


def reading(path: Path, rounds: int) -> list[Measure]:
    """Speed of the reader, of pyarrow alone and of plain reads of the same file, in MiB of the file per second."""
    size, measures = path.stat().st_size / MEBIBYTE, list[Measure]()
    cold = fastest({"plain": plain_read, "rows": rows_read}, path, rounds, is_cold=True)
    measures.append(Measure("plain reads from the disk", size / cold["plain"], "MiB/s"))
    measures.append(Measure(f"rows read from the disk, {THREADS} threads", size / cold["rows"], "MiB/s"))
    for count in sorted({1, THREADS}):
        with threads(count):
            warm = fastest({"bare": bare_decode, "rows": rows_read}, path, rounds, is_cold=False)
        measures.append(Measure(f"rows read from the page cache, threads: {count}", size / warm["rows"], "MiB/s"))
        measures.append(Measure(f"decoded by bare pyarrow, threads: {count}", size / warm["bare"], "MiB/s"))
    slower = cold["rows"] / cold["plain"]
    return [*measures, Measure("reading rows from the disk, over plain reads from it", slower, "x", at_most=1.2)]


def memory(path: Path, num_batches: int) -> list[Measure]:
    """Peak memory, and its growth with four times the images."""
    network, peaks = Network("vgg11", 0.25), []
    for count in (num_batches, num_batches, 4 * num_batches):
        network.stage(path, count)
        rows_read(path)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT / MEBIBYTE)
    more = 3 * num_batches * BATCH * network.schema.row_bytes / MEBIBYTE
    return [
        Measure(f"peak memory, {num_batches * BATCH} images, twice", peaks[1], "MiB"),
        # Two row groups, which the writer may hold: the small runs need not have met its worst moment.
        Measure(f"added to the peak by {more:.0f} MiB more values", peaks[2] - peaks[1], "MiB", at_most=32),
    ]


class Network:
    """A CNN of random weights, fed the same few random images again and again."""

    def __init__(self, name: str, width: float) -> None:
        spec = ModelSpec(name=name, num_classes=10, in_shape=(3, 32, 32), options={"width": width})
        self.module: nn.Module = build(spec, 0).eval()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, 3, 32, 32, generator=generator)
        self.where = sites(self.module, trace(self.module, self.images[:2]))
        first = capture(self.module, self.where, self.images[:2], grid=GRID)
        shapes = {group: tuple(values.shape[1:]) for group, values in first.items()}
        self.schema = RowsSchema(sites=shapes, dtype="float32", provenance={"member": name})

    def batches(self, count: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Ids and images; they are shifted from batch to batch, for equal rows would compress too well."""
        for number in range(count):
            yield number * BATCH + np.arange(BATCH), self.images.roll(number % 32, -1) + number % 7 / 7

    @torch.no_grad()
    def forward(self, num_batches: int) -> None:
        """The bare forward pass."""
        for _, images in self.batches(num_batches):
            self.module(images)

    def stage(self, path: Path, num_batches: int) -> None:
        """The forward pass, its activations written."""
        with RowsWriter(path, self.schema) as writer:
            for ids, images in self.batches(num_batches):
                taken = capture(self.module, self.where, images, grid=GRID)
                writer.write(
                    ids, ids % 10, "train", {group: values.flatten(1).numpy() for group, values in taken.items()}
                )


def rows_read(path: Path) -> None:
    """Every row of the file, as the matching reads them."""
    for _ in read_rows(path):
        pass


def bare_decode(path: Path) -> None:
    """Every row of the file by pyarrow alone, its values thrown away."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for _ in file.iter_batches(1024, use_threads=True):
            pass


def plain_read(path: Path) -> None:
    """Every byte of the file."""
    with path.open("rb", buffering=0) as file:
        while file.read(MEBIBYTE):
            pass


def fastest(ways: Mapping[str, Callable[[Path], None]], path: Path, rounds: int, *, is_cold: bool) -> dict[str, float]:
    """The least wall time of each way to read the file, from the disk or from the page cache, tried in turn."""
    tries = [{name: read_seconds(read, path, is_cold) for name, read in ways.items()} for _ in range(rounds)]
    return {name: min(times[name] for times in tries) for name in ways}


def read_seconds(read: Callable[[Path], None], path: Path, is_cold: bool) -> float:
    """Wall time of one way to read the file."""
    if is_cold:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds(lambda: read(path))


if __name__ == "__main__":
    report(__doc__, measure, tiny={"num_batches": 1, "rounds": 1, "num_flat_batches": 1})
