"""What networks of a robustness report recognise, read from the predictions of their paths to be compared."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from amalgam.pipeline.reports.robustness.table import NETWORK
from amalgam.pipeline.reports.tables import Row, points
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, read_predictions
from amalgam.tasks.clip.testing.evaluate import path_name
from amalgam.tasks.scoring.comparing import Difference, PooledAccuracies, pool
from amalgam.tasks.scoring.metrics import Predictions, same_examples
from amalgam.tasks.scoring.pooled import Hits

Key = tuple[str, float | None, float]
"""Method, strength, alpha."""
Pooled = PooledAccuracies[Key]


def key_of(row: Row) -> Key:
    """Which network a row is of."""
    return row["method"], row["strength"], row["alpha"]


def interval_text(difference: Difference) -> str:
    """A difference in points with its interval over images."""
    return f"{points(difference.value)} [{points(difference.low)}, {points(difference.high)}]"


def pooled(frame: pd.DataFrame, networks: Sequence[Key]) -> Pooled:
    """Read the predictions of some networks that were tested, every seed of them."""
    where = frame.dropna(subset="folder").groupby([*NETWORK, "seed"], dropna=False, sort=False)["folder"].first()
    folders = {
        (method, None if pd.isna(strength) else strength, alpha, seed): folder
        for (method, strength, alpha, seed), folder in where.items()
    }
    every = [_hits(networks, [folders[*key, seed] for key in networks]) for seed in sorted(frame["seed"].unique())]
    return pool({key: [hits[key] for hits in every if key in hits] for key in every[0]}, networks)


def _hits(networks: Sequence[Key], folders: Sequence[Path]) -> dict[tuple[str, str], Hits]:
    """What networks of one seed recognise, by role and test set; each file is read once."""
    names = [path_name(alpha) for *_, alpha in networks]
    columns: dict[tuple[Path, str, str], Tensor] = {}
    examples: dict[tuple[str, str], Predictions] = {}
    for folder in dict.fromkeys(folders):
        wanted = {name for name, of_network in zip(names, folders, strict=True) if of_network == folder}
        for answers in read_predictions(folder / PREDICTIONS, wanted):
            found = answers.predictions
            if not same_examples(examples.setdefault((answers.role, answers.test_set), found), found):
                raise ValueError(f"{folder} was tested on other images of {answers.test_set!r} than other networks")
            columns[folder, answers.network, answers.test_set] = found.labels == found.classes
    places = list(zip(folders, names, strict=True))
    if lacking := [folder for _, name in examples for folder, net in places if (folder, net, name) not in columns]:
        raise ValueError(f"{lacking[0]} was not tested on all that other networks were tested on")
    return {
        key: Hits(torch.stack([columns[*place, key[1]] for place in places], dim=1), found.sources)
        for key, found in examples.items()
    }
