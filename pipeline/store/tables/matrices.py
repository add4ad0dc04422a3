"""A matrix of activations in a user's files: .npy, .safetensors or Parquet, or a folder of such shards.

Rows are read in chunks of some megabytes (a row group of Parquet at a time), so that files may exceed memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amalgam.pipeline.store.tables.parquet_stream import open_parquet, reading
from amalgam.pipeline.store.tables.rows_schema import SCHEMA_KEY, values_of
from amalgam.tasks.sae.training.rows import Chunk

CHUNK_BYTES = 8 << 20
LABELS = ("label", "labels")
WHAT = "activations"


@dataclass(frozen=True)
class Matrix:
    """Rows in files, in the order of the files' names."""

    chunks: tuple[Chunk, ...]
    width: int
    labels: Tensor | None
    """The labels that lie beside the rows, (rows,): a column or tensor `label` or `labels`; None without."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return sum(chunk.num_rows for chunk in self.chunks)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` at a time, the last ones maybe fewer."""
        rest: Tensor | None = None
        for chunk in self.chunks:
            rows = chunk.load() if rest is None else torch.cat([rest, chunk.load()])
            whole = len(rows) // size * size
            yield from rows[:whole].split(size) if whole else ()
            rest = rows[whole:].clone()
        if rest is not None and len(rest):
            yield rest


@dataclass(frozen=True)
class _File:
    num_rows: int
    width: int
    chunks: tuple[Chunk, ...]
    labels: Tensor | None = None


def open_matrix(place: Path, column: str | None = None) -> Matrix:
    """The matrix in a file or a folder of shards; `column` names a tensor or column where there are several.

    Raises ValueError for files that are absent, damaged, of another kind, of other widths, or without rows.
    """
    paths = sorted(path for path in place.iterdir() if path.suffix in READERS) if place.is_dir() else [place]
    if not paths:
        raise ValueError(f"{place} has no shards: files ending with {', '.join(READERS)}")
    files = []
    for path in paths:
        if path.suffix not in READERS:
            raise ValueError(f"{path} is no matrix of activations: files end with {', '.join(READERS)}")
        if not path.is_file():
            raise ValueError(f"no activations at {path}")
        files.append(READERS[path.suffix](path, column))
        if files[-1].width != files[0].width:
            raise ValueError(f"{path} has rows of width {files[-1].width}, {paths[0]} of {files[0].width}")
    if not sum(file.num_rows for file in files):
        raise ValueError(f"{place} has no rows")
    labels = [file.labels for file in files if file.labels is not None]
    chunks = tuple(chunk for file in files for chunk in file.chunks if chunk.num_rows)
    return Matrix(chunks, files[0].width, torch.cat(labels) if len(labels) == len(files) else None)


def read_labels(path: Path, num_rows: int) -> Tensor:
    """Labels (num_rows,) of a .npy file of whole numbers. Raises ValueError for anything else."""
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read labels from {path}: {error}") from error
    if labels.shape != (num_rows,) or labels.dtype.kind not in "iub":
        raise ValueError(f"{path} must hold {num_rows} whole numbers, got {labels.dtype} {labels.shape}")
    return torch.from_numpy(labels.astype(np.int64))


def _npy(path: Path, column: str | None) -> _File:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise ValueError(f"{path} must hold floating point numbers (rows, width), got {rows.dtype} {rows.shape}")

    def load(start: int, end: int) -> Tensor:
        # Mapped anew: pages of a mapping that stays would count as memory.
        part = np.load(path, mmap_mode="r", allow_pickle=False)[start:end]
        return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("="), order="C"))

    num_rows, width = rows.shape
    return _File(num_rows, width, _chunks(path, num_rows, width * rows.itemsize, load))


def _safetensors(path: Path, column: str | None) -> _File:
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            name = _chosen(path, column, [name for name, shape in shapes.items() if len(shape) == 2])
            first = file.get_slice(name)[:1]
            beside = next((label for label in LABELS if shapes.get(label) == shapes[name][:1]), None)
            labels = file.get_tensor(beside).long() if beside else None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not first.is_floating_point():
        raise ValueError(f"{path} must hold floating point numbers in {name!r}, got {first.dtype}")

    def load(start: int, end: int) -> Tensor:
        with safe_open(path, "pt") as file:
            return file.get_slice(name)[start:end]

    num_rows, width = shapes[name]
    return _File(num_rows, width, _chunks(path, num_rows, width * first.element_size(), load), labels)


def _parquet(path: Path, column: str | None) -> _File:
    with reading(path, WHAT), open_parquet(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        is_ours = SCHEMA_KEY in (schema.metadata or {})
        lists = [field.name for field in schema if _is_row(field.type, is_ours)]
        name = _chosen(path, column, lists)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        labels = (
            file.read([label])[label].to_numpy()
            if (label := next((n for n in LABELS if n in schema.names), None))
            else None
        )

    def load(group: int) -> Tensor:
        with reading(path, WHAT), open_parquet(path) as file:
            values = file.read_row_group(group, [name]).column(name).combine_chunks()
        flat = values.flatten().to_numpy() if _is_ragged(values.type) else values_of(values)
        if values.null_count or flat.size % len(values):
            raise ValueError(f"{path} has rows without values, or of other lengths, in {name!r}")
        return torch.from_numpy(np.array(flat.reshape(len(values), -1)))

    chunks = tuple(Chunk(size, partial(_finite, path, partial(load, group))) for group, size in enumerate(sizes))
    kind = schema.field(name).type
    fixed = 0 if _is_ragged(kind) else kind.list_size if pa.types.is_fixed_size_list(kind) else kind.byte_width // 2
    width = fixed or (load(sizes.index(max(sizes))).shape[1] if max(sizes, default=0) else 0)
    return _File(sum(sizes), width, chunks, None if labels is None else torch.from_numpy(labels.astype(np.int64)))


READERS: dict[str, Callable[[Path, str | None], _File]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}


def _chunks(path: Path, num_rows: int, row_bytes: int, load: Callable[[int, int], Tensor]) -> tuple[Chunk, ...]:
    size = max(1, CHUNK_BYTES // max(1, row_bytes))
    bounds = [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
    return tuple(Chunk(end - start, partial(_finite, path, partial(load, start, end))) for start, end in bounds)


def _finite(path: Path, load: Callable[[], Tensor]) -> Tensor:
    rows = load()
    if not rows.isfinite().all():
        raise ValueError(f"{path} has values that are NaN or infinite")
    return rows


def _chosen(path: Path, column: str | None, known: Sequence[str]) -> str:
    """The column asked for, or the only one."""
    if column is not None and column not in known:
        raise ValueError(f"{path} has no matrix {column!r}: it has {', '.join(known) or 'none'}")
    if column is None and len(known) != 1:
        raise ValueError(f"{path} has {len(known)} matrices ({', '.join(known)}): choose one with --column")
    return column or known[0]


def _is_row(kind: pa.DataType, is_ours: bool) -> bool:
    """Whether a column has a row of numbers in each field; bytes are numbers of half precision in files of ours."""
    if pa.types.is_fixed_size_list(kind) or _is_ragged(kind):
        return pa.types.is_floating(kind.value_type)
    return is_ours and pa.types.is_fixed_size_binary(kind)


def _is_ragged(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
