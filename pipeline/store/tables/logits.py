"""Logits of members in Parquet, keyed by example, so that ensembles are fitted and compared without a network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.tables.parquet_stream import read_marked

LOGITS, METADATA = "logits.parquet", b"amalgam.logits"


@dataclass(frozen=True)
class Logits:
    """What one member gives on the examples of one split."""

    ids: Tensor
    """Positions in the data set, int64, (examples,)."""
    labels: Tensor
    """(examples,)"""
    values: Tensor
    """float32, (examples, classes)."""
    groups: tuple[str | None, ...] = ()
    """Group of each example, such as its patient; empty without groups."""

    def in_order_of(self, ids: Tensor) -> "Logits":
        """The same rows in the order of some ids. Raises ValueError unless they are of these examples."""
        order, wanted = self.ids.argsort(), ids.argsort()
        if not torch.equal(self.ids[order], ids[wanted]):
            raise ValueError("members were staged on different examples: stage them on one data set and seed")
        places = torch.empty_like(order)
        places[wanted] = order
        groups = tuple(self.groups[place] for place in places.tolist()) if self.groups else ()
        return Logits(ids, self.labels[places], self.values[places], groups)


def write_logits(folder: Path, member: str, family: str, splits: Mapping[str, Logits], data: Mapping[str, str]) -> None:
    """Write `logits.parquet`, a row group a split; `data` holds the fingerprints of the examples by split."""
    with written_whole(folder / LOGITS) as partial:
        tables = [_table(member, family, split, one) for split, one in splits.items()]
        schema = tables[0].schema.with_metadata({METADATA: json.dumps({"data": dict(data)})})
        with pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as file:
            for table in tables:
                file.write_table(table.cast(schema), row_group_size=len(table))


def read_logits(folder: Path, split: str) -> Logits:
    """The rows of one split. Raises ValueError if they are absent, damaged or of another kind."""
    rows = read_marked(folder / LOGITS, METADATA, "logits").filter(pa.compute.field("split") == split).combine_chunks()
    if not len(rows):
        raise ValueError(f"{folder / LOGITS} holds no split {split!r}")
    width = rows.schema.field("logits").type.list_size
    values = rows["logits"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    groups = rows["group"].to_pylist()
    return Logits(
        torch.from_numpy(rows["sample"].to_numpy().copy()),
        torch.from_numpy(rows["label"].to_numpy().copy()),
        torch.from_numpy(values.copy()),
        tuple(groups) if any(group is not None for group in groups) else (),
    )


def read_stacked(folders: Sequence[Path], split: str) -> tuple[Tensor, Tensor]:
    """Logits (members, examples, classes) and labels (examples,) of several members, matched by example.

    Raises ValueError unless all are of the same examples of the same data.
    """
    first, *others = [read_logits(folder, split) for folder in folders]
    data = {json.dumps(_data(folder), sort_keys=True) for folder in folders}
    if len(data) > 1:
        raise ValueError(f"members were staged on {len(data)} different data sets: combine members of one")
    aligned = [first, *(other.in_order_of(first.ids) for other in others)]
    return torch.stack([one.values for one in aligned]), first.labels


def _data(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(pq.read_schema(folder / LOGITS).metadata[METADATA])["data"]
    return found


def _table(member: str, family: str, split: str, one: Logits) -> pa.Table:
    count, width = one.values.shape
    flat = pa.array(one.values.float().reshape(-1).numpy())
    columns = {
        "member": pa.array([member] * count),
        "family": pa.array([family] * count),
        "split": pa.array([split] * count),
        "sample": pa.array(one.ids.numpy()),
        "group": pa.array(one.groups or [None] * count, pa.string()),
        "label": pa.array(one.labels.numpy()),
        "logits": pa.FixedSizeListArray.from_arrays(flat, width),
    }
    return pa.table(columns)
