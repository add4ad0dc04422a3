"""`amalgam sae export`: what an explanation found of latents, for SAELens and Neuronpedia.

Neuronpedia's files are those of its own exports, a JSON object a line in batches of 1024 latents: `features` with how
often and how strongly a latent is active and which classes it speaks for, `activations` with its strongest images,
`explanations` with its name. Neuronpedia shows texts: here an image is a text of one token, its domain and number.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from amalgam.pipeline.cli.clip.sae_card import write_card
from amalgam.pipeline.store.artifact import new_folder
from amalgam.pipeline.store.clip_checkpoints import read_sae, sae_key, save_sae
from amalgam.pipeline.store.tables.parquet_stream import read_marked, reading

BATCH = 1024  # latents of a file
CARDS = "cards.parquet"
MARK = b"autoencoder"  # in the metadata of tables: whose latents they number
BEFORE = "before"  # the model whose features the autoencoder reads
Row = dict[str, Any]


@dataclass(frozen=True)
class ExportRequest:
    """What `amalgam sae export` is asked for."""

    sae: Path
    explanation: Path
    """Folder of `amalgam explain`."""
    out: Path
    model_id: str
    source_id: str
    """What Neuronpedia calls the layer and the autoencoder there."""


def export_files(request: ExportRequest) -> list[str]:
    """Write a folder as SAELens reads it, with a card, and Neuronpedia's files below it; what was written.

    Raises ValueError if the explanation is absent, or of another autoencoder.
    """
    sae = read_sae(request.sae)
    latents = read_marked(request.explanation / "latents.parquet", MARK, "latents of an explanation")
    if (latents.schema.metadata or {})[MARK].decode() != sae_key(request.sae):
        raise ValueError(f"{request.explanation} explains another autoencoder than {request.sae}")
    with reading(request.explanation / CARDS, "cards of an explanation"):
        table = pq.read_table(request.explanation / CARDS, filters=[("dictionary", "==", "original")])
        cards = {row["latent"]: row for row in table.to_pylist()}
    rows = [
        cards[row["latent"]] | row | {"label": cards[row["latent"]]["label"]}
        for row in latents.to_pylist()
        if row["model"] == BEFORE and row["firing_rate"] > 0
    ]
    named = f"{request.model_id}/{request.source_id}"
    with new_folder(request.out) as folder:
        origin = sae.info.origin | {"model_name": request.model_id, "neuronpedia_id": named}
        sae.info = sae.info.model_copy(update={"origin": origin})
        save_sae(sae, folder, rescaled=True)
        write_card(folder)
        place = folder / "neuronpedia" / request.model_id / request.source_id
        found = {kind: list(table(rows, request)) for kind, table in TABLES.items()}
        for kind, lines in found.items():
            _write(lines, place / kind)
    return [f"{kind}: {len(lines)}" for kind, lines in found.items()]


def features(rows: Iterable[Row], request: ExportRequest) -> Iterable[Row]:
    """One object a latent; bars of the histogram are named by their middles."""
    for row in rows:
        bars = row["histogram_before"]
        yield {
            **_key(row, request),
            "maxActApprox": row["top_activations"][0],
            "frac_nonzero": row["firing_rate"],
            "freq_hist_data_bar_heights": bars,
            "freq_hist_data_bar_values": [(bar + 0.5) * row["highest"] / len(bars) for bar in range(len(bars))],
            "pos_str": row["writes_for"],
            "pos_values": row["writes_for_logit"],
            "neg_str": row["writes_against"],
            "neg_values": row["writes_against_logit"],
            "topkCosSimIndices": row["near_cosine"],
            "topkCosSimValues": row["near_cosine_value"],
        }


def activations(rows: Iterable[Row], request: ExportRequest) -> Iterable[Row]:
    """One object for each of a latent's strongest images."""
    for row in rows:
        top = zip(row["top_domains"], row["top_ids"], row["top_activations"], strict=True)
        for rank, (domain, image, value) in enumerate(top):
            yield {
                "id": f"{request.source_id}-{row['latent']}-{rank}",
                **_key(row, request),
                "tokens": [f"{domain}/{image}"],
                "values": [value],
                "maxValue": value,
                "minValue": value,
                "maxValueTokenIndex": 0,
            }


def explanations(rows: Iterable[Row], request: ExportRequest) -> Iterable[Row]:
    """One object for each latent that has a label or a name."""
    for row in rows:
        if name := row["label"] or row.get("name"):
            yield {
                "id": f"{request.source_id}-{row['latent']}",
                **_key(row, request),
                "description": name,
                "typeName": "amalgam_words",
                "explanationModelName": request.model_id,
            }


TABLES = {"features": features, "activations": activations, "explanations": explanations}


def _key(row: Row, request: ExportRequest) -> Row:
    return {"modelId": request.model_id, "layer": request.source_id, "index": str(row["latent"])}


def _write(lines: list[Row], folder: Path) -> None:
    """Batches by the latents' numbers, an object a line; the same bytes for the same objects."""
    folder.mkdir(parents=True)
    batches: dict[int, list[Row]] = {}
    for line in lines:
        batches.setdefault(int(line["index"]) // BATCH, []).append(line)
    for number, batch in batches.items():
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in batch)
        (folder / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
