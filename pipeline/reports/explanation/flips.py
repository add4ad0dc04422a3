"""`flips.parquet`: a row per image whose prediction changed, written while the images stream by."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from amalgam.tasks.explain.decomposition import NAMES as PARTS
from amalgam.tasks.explain.flips import KINDS, Flips

FLIPS = pa.schema(
    [
        *((name, pa.string()) for name in ("domain", "kind")),
        *((name, pa.int64()) for name in ("example_id", "label", "before", "after")),
        *((name, pa.float64()) for name in ("margin_before", "rise", *PARTS)),
        *((name, pa.bool_()) for name in ("explained", "alone")),
        ("leading_latents", pa.list_(pa.int64())),
        ("leading_parts", pa.list_(pa.float64())),
    ]
)


class FlipsWriter:
    """Writes `flips.parquet` batch by batch, in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "flips.parquet"

    def __enter__(self) -> Self:
        self._file = pq.ParquetWriter(self._path, FLIPS, compression="zstd", write_page_checksum=True)
        return self

    def write(self, domain: str, ids: Tensor, labels: Tensor, flips: Flips) -> None:
        """Add the flips of a batch whose images have these ids and classes."""
        rows = flips.rows.cpu()
        columns: dict[str, Any] = {
            "domain": [domain] * len(rows),
            "kind": [KINDS[kind] for kind in flips.kinds.tolist()],
            "example_id": ids.cpu()[rows].tolist(),
            "label": labels.cpu()[rows].tolist(),
            "before": flips.old.tolist(),
            "after": flips.new.tolist(),
            "margin_before": flips.margin_before.tolist(),
            "rise": flips.rise.total.tolist(),
            **{part: getattr(flips.rise, part).tolist() for part in PARTS},
            "explained": flips.explained.tolist(),
            "alone": flips.alone.tolist(),
            "leading_latents": flips.leading.tolist(),
            "leading_parts": flips.leading_parts.tolist(),
        }
        self._file.write_table(pa.table(columns, FLIPS))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
