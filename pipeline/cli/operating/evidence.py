"""What is known of chance when few nights are: seeds of one night, and the same test images of two."""

import math
from pathlib import Path

from amalgam.pipeline.cli.show import REPORTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.tables import DEVIATION
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, read_predictions
from amalgam.pipeline.store.tables.results import read_results
from amalgam.pipeline.tracking.nights.record import records_of
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.tasks.scoring.comparing import Difference, pool
from amalgam.tasks.scoring.metrics import Predictions, same_examples
from amalgam.tasks.scoring.pooled import Hits
from amalgam.tasks.scoring.results import ALPHA

INTERVAL = 2 * 1.96  # standard deviations from one end of an interval of 95 % to the other
Key = tuple[str, str]
"""The role of test sets, and the label of a network over its seeds."""


def chance(run: RunRecord, before: RunRecord | None, root: Path) -> dict[str, float]:
    """Standard deviation of a night's metrics by name, as far as it is known without other nights.

    The larger of what the seeds of the night show and what the same test images show, answered by it and `before`.
    """
    found = _by_seeds(run, root)
    for (role, label), difference in (paired(before, run, root) if before else {}).items():
        of_night = (difference.high - difference.low) / INTERVAL / math.sqrt(2)
        for name in (f"{role}/{label}", f"{role}/{label.partition(' ')[0]}"):  # whole, and by its method alone
            found[name] = max(found.get(name, 0.0), of_night)
    return found


def paired(before: RunRecord, run: RunRecord, root: Path) -> dict[Key, Difference]:
    """How far each network of a run is ahead of that of an earlier one, where both kept what they answered.

    A bootstrap over test images and, with several, over seeds. Test sets whose images differ are left out.
    """
    ours, theirs = _answers(run, root), _answers(before, root)
    found = {}
    for key in [key for key in ours if key in theirs]:
        hits = {
            (key[0], name): [_both(a, b) for a, b in zip(theirs[key][name], seeds, strict=False)]
            for name, seeds in ours[key].items()
            if name in theirs[key] and all(map(same_examples, theirs[key][name], seeds))
        }
        if hits:
            found[key] = pool(hits, ("before", "now")).difference(key[0], "now", "before")
    return found


def _by_seeds(run: RunRecord, root: Path) -> dict[str, float]:
    """Standard deviations of means over the seeds of a night, from the tables of its reports."""
    found: dict[str, float] = {}
    for record in records_of(run, root):
        for stem in [
            stem for stem in REPORTS if record.fingerprint in run.targets and f"{stem}.parquet" in record.files
        ]:
            for row in read_rows(storage_of(root).local(record.key), stem):
                seeds = row.get("seeds") or 0
                for name in [name for name in row if name.endswith(DEVIATION) and row[name] is not None and seeds > 1]:
                    measure = name.removesuffix(DEVIATION).removesuffix("/accuracy")
                    label = str(row["label"]).replace(",", "") if stem == "frontier" else row["label"]
                    found[f"{measure}/{label}"] = row[name] / math.sqrt(seeds)
    return found


def _answers(run: RunRecord, root: Path) -> dict[Key, dict[str, list[Predictions]]]:
    """What the networks of a run answered, by test set, a list over seeds."""
    found: dict[Key, dict[str, list[tuple[int, Predictions]]]] = {}
    for record in [record for record in records_of(run, root) if PREDICTIONS in record.files]:
        folder = storage_of(root).local(record.key)
        networks = {_name(result.network.number(ALPHA)): result.network for result in read_results(folder)}
        for answers in read_predictions(folder / PREDICTIONS, networks):
            network = networks[answers.network]
            of_key = found.setdefault((answers.role, network.over_seeds.label), {})
            of_key.setdefault(answers.test_set, []).append((network.seed, answers.predictions))
    return {key: {name: _in_order(seeds) for name, seeds in sets.items()} for key, sets in found.items()}


def _in_order(seeds: list[tuple[int, Predictions]]) -> list[Predictions]:
    return [predictions for _, predictions in sorted(seeds, key=lambda pair: pair[0])]


def _name(alpha: float | None) -> str:
    """What predictions call the network of that alpha."""
    return "alpha=1" if alpha is None else f"alpha={alpha:g}"


def _both(before: Predictions, now: Predictions) -> Hits:
    import torch  # here, not above: comparisons without predictions need none

    return Hits(torch.stack([one.labels == one.classes for one in (before, now)], dim=1), now.sources)
