"""`labels.csv`: what people call latents, read and written so that their labels survive another explanation."""

import csv
from collections.abc import Mapping
from pathlib import Path

from amalgam.tasks.data.layouts import read_table

LABELS = "labels.csv"
COLUMNS = ("autoencoder", "latent", "label")


def read_labels(path: Path | None, autoencoder: str, num_latents: int) -> dict[int, str]:
    """The labels of a table with the columns latent and label; none without a table.

    Raises ValueError for latents of another autoencoder, whose key the column autoencoder has, or that do not exist.
    """
    if path is None:
        return {}
    try:
        rows = read_table(path, COLUMNS[1:])
        labels = {int(row["latent"]): row["label"].strip() for row in rows if row["label"]}
    except (OSError, csv.Error, ValueError) as error:
        raise ValueError(f"{path} must be a table with the columns latent, label: {error}") from error
    if other := {key for row in rows if (key := row.get("autoencoder")) and key != autoencoder}:
        raise ValueError(f"{path} labels latents of autoencoder {min(other)}, this one is {autoencoder}")
    if beyond := [latent for latent in labels if not 0 <= latent < num_latents]:
        raise ValueError(f"{path} labels latent {beyond[0]}, the autoencoder has {num_latents}")
    return labels


def write_labels(labels: Mapping[int, str], autoencoder: str, folder: Path) -> None:
    """Write `labels.csv`, to be edited."""
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((autoencoder, latent, labels[latent]) for latent in sorted(labels))
