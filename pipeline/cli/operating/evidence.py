"""What is known of chance when few nights are: seeds of one night, and the same test images of two."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from amalgam.pipeline.cli.show import REPORTS
from amalgam.pipeline.console import say
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.frontier.table import identity
from amalgam.pipeline.reports.tables import DEVIATION
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, read_predictions
from amalgam.pipeline.store.tables.results import read_results
from amalgam.pipeline.tracking.nights.record import records_of
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.tasks.scoring.comparing import Difference, pool
from amalgam.tasks.scoring.metrics import Predictions, same_examples
from amalgam.tasks.scoring.pooled import Hits
from amalgam.tasks.scoring.results import ALPHA, Network

INTERVAL = 2 * 1.96  # standard deviations from one end of an interval of 95 % to the other
Key = tuple[str, str]
"""The role of test sets, and the label of a network over its seeds."""
Tested = tuple[str, Network]
"""The role of test sets, and a network without its seed."""
Answered = dict[Tested, dict[str, list[Predictions]]]
Images = tuple[int, ...]
MEMBER = re.compile(r"member \d+")


def chance(run: RunRecord, before: RunRecord | None, root: Path) -> dict[str, float]:
    """Standard deviation of a night's metrics by name, as far as it is known without other nights.

    The larger of what the seeds of the night show and what the same test images show, answered by it and `before`.
    """
    found = _by_seeds(run, root)
    for (role, label), difference in (paired(before, run, root) if before else {}).items():
        of_night = (difference.high - difference.low) / INTERVAL / math.sqrt(2)
        for name in _metrics(role, label):
            found[name] = max(found.get(name, 0.0), of_night)
    return found


def paired(before: RunRecord, run: RunRecord, root: Path) -> dict[Key, Difference]:
    """How far each network of a run is ahead of that of an earlier one, where both kept what they answered.

    A bootstrap over test images and, with several, over seeds. Test sets whose images differ are left out.
    """
    ours, theirs = _answers(run, root), _answers(before, root)
    alike: dict[tuple[str, tuple[tuple[str, Images], ...]], list[Tested]] = {}
    for key in [key for key in ours if key in theirs]:
        sets = {name: _images(theirs[key][name], ours[key][name]) for name in ours[key] if name in theirs[key]}
        if shown := tuple((name, images) for name, images in sets.items() if images):
            alike.setdefault((key[0], shown), []).append(key)
    found = dict[Tested, Difference]()
    for (role, shown), keys in alike.items():  # on the same resamples, which cost more than networks
        hits = {
            (role, name): [_hits(theirs, ours, keys, name, place) for place in range(len(images))]
            for name, images in shown
        }
        pooled = pool(hits, [(when, key) for key in keys for when in ("before", "now")])
        found |= {key: pooled.difference(role, ("now", key), ("before", key)) for key in keys}
    with_weights = len({network.weights for _, network in found if network.weights}) > 1
    return {
        (role, identity(network, with_weights=with_weights)["label"]): ahead for (role, network), ahead in found.items()
    }


def _metrics(role: str, label: str) -> list[str]:
    """What a report may call the accuracy of a network: by its label, by its method alone, as frontiers do.

    A mean of members, or the best of them, varies no more than a member.
    """
    of_members = ["accuracy/mean member", "accuracy/best member"] if MEMBER.fullmatch(label) else []
    return [f"{role}/{label}", f"{role}/{label.partition(' ')[0]}", f"accuracy/{label.replace(',', '')}", *of_members]


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


def _answers(run: RunRecord, root: Path) -> Answered:
    """What the networks of a run answered, by test set, a list over seeds."""
    found: dict[Tested, dict[str, list[tuple[int, Predictions]]]] = {}
    storage = storage_of(root)
    for record in [record for record in records_of(run, root) if PREDICTIONS in record.files]:
        if damage := storage.damage_of(record.key):
            say(f"{damage}: left out of comparisons by test image")
            continue
        folder = storage.local(record.key)
        every = {result.network for result in read_results(folder)}
        networks = {one.label: one for one in every} | {_name(one.number(ALPHA)): one for one in every}
        for answers in read_predictions(folder / PREDICTIONS, networks):
            network = networks[answers.network]
            of_key = found.setdefault((answers.role, network.over_seeds), {})
            of_key.setdefault(answers.test_set, []).append((network.seed, answers.predictions))
    return {key: {name: _in_order(seeds) for name, seeds in sets.items()} for key, sets in found.items()}


def _in_order(seeds: list[tuple[int, Predictions]]) -> list[Predictions]:
    return [predictions for _, predictions in sorted(seeds, key=lambda pair: pair[0])]


def _name(alpha: float | None) -> str:
    """What predictions of a path call the network of that alpha."""
    return "alpha=1" if alpha is None else f"alpha={alpha:g}"


def _images(before: Sequence[Predictions], now: Sequence[Predictions]) -> Images:
    """Digests of the images of a test set, one for each seed; none if two runs were tested on different ones."""
    pairs = list(zip(before, now, strict=False))
    if not all(same_examples(*pair) for pair in pairs):
        return ()
    return tuple(hash((one.ids.numpy().tobytes(), one.labels.numpy().tobytes())) for _, one in pairs)


def _hits(theirs: Answered, ours: Answered, keys: Sequence[Tested], name: str, place: int) -> Hits:
    """What the networks recognise in one seed, two columns for each: before and now."""
    import torch  # here, not above: comparisons without predictions need none

    every = [answers[key][name][place] for key in keys for answers in (theirs, ours)]
    return Hits(torch.stack([one.labels == one.classes for one in every], dim=1), every[-1].sources)
