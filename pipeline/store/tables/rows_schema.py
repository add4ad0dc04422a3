"""What a file of activation rows contains, as a value and as an Arrow schema."""

from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

KEY_COLUMNS = {
    "example_id": pa.int64(),
    "label": pa.int64(),
    "split": pa.string(),
    "domain": pa.string(),
    "view": pa.int16(),
}
"""What stands beside the values of every row: which example it is, where it is from, which view of it was taken."""
SCHEMA_KEY, DIGEST_KEY = b"amalgam.rows", b"amalgam.digest"


class RowsSchema(BaseModel):
    """What a file of activation rows contains."""

    model_config = ConfigDict(frozen=True)
    sites: dict[str, tuple[int, int]]
    """Units and positions of each site, by name."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of every stored activation."""
    provenance: dict[str, str] = {}
    """Where the values come from, such as the fingerprints of the member and of the data."""

    @field_validator("sites")
    @classmethod
    def _check_sites(cls, sites: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        if not sites:
            raise ValueError("activation rows need at least one site, got none")
        for site, (units, positions) in sites.items():
            if site in KEY_COLUMNS:
                raise ValueError(f"a site cannot be named {site!r}: rows have a column of that name")
            if min(units, positions) < 1:
                raise ValueError(f"site {site!r} needs at least one unit and position, got {units} x {positions}")
        return sites

    def width(self, site: str) -> int:
        """Number of values of one example at `site`."""
        units, positions = self.sites[site]
        return units * positions

    @property
    def row_bytes(self) -> int:
        """Size of the activations of one example, uncompressed."""
        return np.dtype(self.dtype).itemsize * sum(map(self.width, self.sites))

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, this value inside its metadata."""
        keys = [pa.field(name, kind) for name, kind in KEY_COLUMNS.items()]
        values = [pa.field(site, self._column(site)) for site in self.sites]
        fields = [field.with_nullable(False) for field in keys + values]
        return pa.schema(fields, metadata={SCHEMA_KEY: self.model_dump_json()})

    def _column(self, site: str) -> pa.DataType:
        if self.dtype == "float16":  # Parquet decodes half precision number by number, and bytes by the row
            return pa.binary(np.dtype(np.float16).itemsize * self.width(site))
        return pa.list_(pa.field("element", pa.float32(), nullable=False), self.width(site))


def values_of(column: pa.Array) -> NDArray:
    """The values of a column as one flat array, without a copy where they are numbers or rows of half precision."""
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return np.frombuffer(column.buffers()[1], np.float16, len(column) * width // 2, column.offset * width)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy()
    if pa.types.is_string(column.type):
        return np.frombuffer("\0".join([*column.to_pylist(), ""]).encode(), dtype=np.uint8)
    return column.to_numpy()
