"""`amalgam compare`: two runs beside each other, their metrics and what they were made of."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from amalgam.pipeline.console import output, say
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.tracking.nights.record import find_run, metrics_of, records_of
from amalgam.tasks.scoring.nights import changes

PACKAGES = ("amalgam", "torch", "timm", "open_clip_torch", "ray", "mlflow", "numpy", "pyarrow", "POT")


def made_of(records: Sequence[Record]) -> dict[str, str]:
    """What a night's numbers depend on other than its seeds."""
    data = {
        f"data of {record.name}": str(record.metrics["data_fingerprint"])
        for record in records
        if "data_fingerprint" in record.metrics
    }
    commit = next((record.git_commit for record in records if record.git_commit), None)
    data |= {name: digest for record in records for name, digest in record.data.items()}
    return data | ({"code": commit} if commit else {}) | {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def compare_runs(first: str, second: str, root: Path) -> None:
    """Print what two runs measured, how much better the second is, and on the same test images with what certainty."""
    from amalgam.pipeline.cli.operating.evidence import paired  # here, not above: it imports torch

    runs = [find_run(root, name) for name in (first, second)]
    old, new = (metrics_of(run, root) for run in runs)
    table = Table("metric", runs[0].key, runs[1].key, "change", box=None, pad_edge=False)
    for name in dict.fromkeys([*old, *new]):
        cells = [f"{numbers[name]:.4g}" if name in numbers else "" for numbers in (old, new)]
        change = f"{new[name] - old[name]:+.4g}" if name in old and name in new else ""
        table.add_row(name, *cells, change)
    output().print(table)
    for (role, label), ahead in paired(runs[0], runs[1], root).items():
        interval = f"{ahead.value:+.4f}, 95 % [{ahead.low:+.4f}, {ahead.high:+.4f}]"
        say(f"{role} accuracy of {label}: {interval} on the same images")
    made = [made_of(records_of(run, root)) for run in runs]
    for line in changes(*made):
        say(line)
    started = [datetime.fromtimestamp(run.started, UTC).astimezone() for run in runs]
    say(f"{runs[0].key} began {started[0]:%Y-%m-%d %H:%M}, {runs[1].key} {started[1]:%Y-%m-%d %H:%M}")
