"""The per-unit summary in Parquet: one row per unit of every site, made beside the activation rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from amalgam.pipeline.store.artifact import written_whole

STATISTICS = ("mean", "variance", "fraction_active", "norm")
SCHEMA = pa.schema(
    [("site", pa.string()), ("unit", pa.int32()), *((name, pa.float64()) for name in STATISTICS)],
)


def write_unit_table(
    path: Path, summaries: Mapping[str, Mapping[str, ArrayLike]], provenance: Mapping[str, str]
) -> None:
    """Write the statistics of every unit: by site, then by statistic, one value per unit.

    Raises ValueError if a site has other statistics than `STATISTICS` or unequal numbers of units.
    """
    tables = [_site_table(site, statistics) for site, statistics in summaries.items()]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables]).replace_schema_metadata(dict(provenance))
    with written_whole(path) as partial:
        pq.write_table(table, partial, compression="zstd", use_dictionary=["site"])


def read_unit_table(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The statistics by site, then by name.

    Raises ValueError if the file is absent, damaged or of another kind.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ValueError(f"no per-unit summary at {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged: delete its folder to build it again") from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{path} is no per-unit summary: its columns are {table.column_names}")
    columns = {name: table.column(name).to_numpy() for name in ("site", *STATISTICS)}
    return {
        site: {name: columns[name][columns["site"] == site] for name in STATISTICS}
        for site in dict.fromkeys(columns["site"])
    }


def _site_table(site: str, statistics: Mapping[str, ArrayLike]) -> pa.Table:
    if set(statistics) != set(STATISTICS):
        raise ValueError(f"site {site!r} needs the statistics {STATISTICS}, got {tuple(statistics)}")
    values = [np.asarray(statistics[name], dtype=np.float64) for name in STATISTICS]
    sizes = {value.shape for value in values}
    if len(sizes) != 1 or values[0].ndim != 1:
        raise ValueError(f"site {site!r} needs one value per unit in every statistic, got shapes {sorted(sizes)}")
    num_units = len(values[0])
    return pa.table([[site] * num_units, np.arange(num_units), *values], schema=SCHEMA)
