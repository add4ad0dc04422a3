"""Where training reads its features from: a tensor, or chunks of more rows than fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

SHARE = 1 << 16  # rows whose moments are summed at once
CPU = torch.device("cpu")


class FeatureRows(Protocol):
    """Rows of features (num_rows, width) that are read many times, in order or shuffled."""

    @property
    def width(self) -> int:
        """Length of a row."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its rows are given."""
        ...

    def __len__(self) -> int: ...

    def parts(self) -> Iterator[Tensor]:
        """All rows in order, some at a time."""
        ...

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """All rows once in an order that `generator` draws: full batches, the last one of what is left."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A tensor (num_rows, width), on any device."""

    rows: Tensor

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or len(self.rows) == 0:
            raise ValueError(f"features must be (num_examples, width) and not empty, got {tuple(self.rows.shape)}")

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.rows.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the tensor."""
        return self.rows.device

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[Tensor]:
        """As of FeatureRows."""
        yield from self.rows.split(SHARE)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """As of FeatureRows; every order is as likely."""
        order = torch.randperm(len(self.rows), generator=generator)
        for indices in order.to(self.device).split(size):
            yield self.rows.index_select(0, indices)


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of a file."""

    num_rows: int
    load: Callable[[], Tensor]
    """Reads them, (num_rows, width)."""


@dataclass(frozen=True)
class Streamed:
    """Chunks of files. Each epoch reads every chunk once, in a random order, and mixes those that fit a buffer.

    Memory is that of the buffer, one chunk and one batch, whatever the number of rows.
    """

    chunks: Sequence[Chunk]
    width: int
    buffer_rows: int = 1 << 17
    """Rows among which batches are drawn."""
    device: torch.device = CPU

    def __len__(self) -> int:
        return sum(chunk.num_rows for chunk in self.chunks)

    def parts(self) -> Iterator[Tensor]:
        """As of FeatureRows."""
        return (self._load(chunk) for chunk in self.chunks)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """As of FeatureRows; rows of one chunk are near each other in the order."""
        order = [self.chunks[n] for n in torch.randperm(len(self.chunks), generator=generator).tolist()]
        largest = max(chunk.num_rows for chunk in order)
        buffer, filled = torch.empty(0), 0
        for number, chunk in enumerate(order, 1):
            rows = self._load(chunk)
            if not len(buffer):
                buffer = rows.new_empty(self.buffer_rows + largest + size, self.width)
            buffer[filled : filled + len(rows)] = rows
            filled += len(rows)
            del rows  # before the next one is read
            if filled < self.buffer_rows and number < len(order):
                continue
            mixed = torch.randperm(filled, generator=generator).to(self.device)
            ready = filled if number == len(order) else filled // size * size
            for start, end in pairwise([*range(0, ready, size), ready]):
                yield buffer.index_select(0, mixed[start:end])
            left = buffer.index_select(0, mixed[ready:])
            filled = len(left)
            buffer[:filled] = left

    def _load(self, chunk: Chunk) -> Tensor:
        rows = chunk.load()
        if rows.shape != (chunk.num_rows, self.width):
            raise ValueError(f"a chunk of {chunk.num_rows} rows of width {self.width} became {tuple(rows.shape)}")
        return rows.to(self.device)
