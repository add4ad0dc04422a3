"""Data that steps read or wrote, as MLflow's data sets: where they lie and what they are, not copies."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.tables.rows import RowsInfo, describe
from amalgam.pipeline.store.tables.rows_schema import KEY_COLUMNS

DATA_FINGERPRINT = "data_fingerprint"
MOST_IN_DIGEST, MOST_IN_NAME = 36, 500  # characters that MLflow takes


@dataclass(frozen=True)
class StagedRows:
    """A file of activation rows, and what it says of itself."""

    file: Path
    info: RowsInfo


def staged_rows(file: Path) -> StagedRows | None:
    """The file with its description, or None if it holds no activation rows."""
    try:
        return StagedRows(file, describe(file))
    except ValueError:
        return None


def staged_in(folder: Path) -> list[StagedRows]:
    """The files of activation rows in a step's folder."""
    return [staged for file in sorted(folder.rglob("*.parquet")) if (staged := staged_rows(file))]


def dataset(rows: StagedRows, context: str) -> DatasetInput:
    """Staged rows as a data set: where they lie and what they are, not a copy of them."""
    file, info = rows.file, rows.info
    sites = [(site, f"{info.dtype}[{units}, {positions}]") for site, (units, positions) in info.sites.items()]
    keys = [(name, "string" if name in ("split", "domain") else "long") for name in KEY_COLUMNS]
    described = Dataset(
        name=f"{file.parent.name}/{file.name}",
        digest=info.digest,
        source_type="local",
        source=json.dumps({"uri": file.absolute().as_uri()}),
        schema=json.dumps({"mlflow_colspec": [{"name": column, "type": kind} for column, kind in keys + sites]}),
        profile=json.dumps({"num_rows": info.num_rows, "num_sites": len(info.sites)} | info.provenance),
    )
    return DatasetInput(described, tags=[InputTag(MLFLOW_DATASET_CONTEXT, context)])


def sources(records: Iterable[Record]) -> list[DatasetInput]:
    """The data sets that these steps opened themselves, by name, each with the digest of its content."""
    found: dict[tuple[str, str], DatasetInput] = {}
    for record in records:
        read = dict(record.data)
        if digest := record.metrics.get(DATA_FINGERPRINT):
            read |= dict.fromkeys(_names(record.config), str(digest))
        for name, digest in read.items():
            described = Dataset(
                name=name[:MOST_IN_NAME],
                digest=str(digest)[:MOST_IN_DIGEST],
                source_type="local",
                source=json.dumps({"name": name}),
                profile=json.dumps({"digest": digest}),
            )
            found[name, str(digest)] = DatasetInput(described, tags=[InputTag(MLFLOW_DATASET_CONTEXT, "read")])
    return list(found.values())


def _names(config: Any) -> Iterator[str]:
    """Names of the data sets in a canonical configuration."""
    if isinstance(config, Mapping):
        if config.get("class") == "DataSpec":
            yield str(config["name"])
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from _names(item)
