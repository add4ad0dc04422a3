"""`amalgam gc`: remove old nights, their steps, and their runs in MLflow."""

from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Option

from amalgam.pipeline.cli.plan import size_text
from amalgam.pipeline.cli.settings import Root, TrackingUri
from amalgam.pipeline.console import output, say
from amalgam.pipeline.store.storage import size_of, storage_of
from amalgam.pipeline.tracking.nights.retention import Expired, expired, remove
from amalgam.pipeline.tracking.store import DATABASE, Store, store_of


def collect(
    keep_nights: Annotated[int, Option(min=1, help="Nights of each series to keep, the newest.")],
    keep_best: Annotated[bool, Option("--keep-best", help="Keep the best night of each series as well.")] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="List what would be removed, with its size; remove nothing.")
    ] = False,
    root: Root = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Remove old nights, the steps that only they use, and their runs in MLflow."""
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the --root of a run")
    store = store_of(root, tracking_uri)
    store.check()
    if problem := store.problem():
        raise ValueError(f"MLflow at {store.address} does not answer ({problem}): nothing is removed")
    needed, gone, freed = _in_mlflow(store, root, keep_nights, keep_best, dry_run)
    if dry_run:
        _list(gone, root)
        freed += sum(map(storage_of(root).size, gone.folders(root)))
        say(f"{size_text(freed)} would be removed; without --dry-run they are")
        return
    sizes = remove(root, keep_nights, keep_best, needed)
    say(f"removed {len(gone.nights)} nights, {len(gone.steps)} steps and {size_text(freed + sum(sizes.values()))}")


def _in_mlflow(
    store: Store, root: Path, keep_nights: int, keep_best: bool, dry_run: bool
) -> tuple[set[str], Expired, int]:
    """Forget what has expired; the steps of registered models, which stay, what has expired, and bytes of files."""
    if store.root and not (root / DATABASE).is_file():
        return set(), expired(root, keep_nights, keep_best), 0
    from amalgam.pipeline.tracking.nights.forgetting import artifacts_of, forget, shown  # here: they import mlflow

    there = shown(store)
    gone = expired(root, keep_nights, keep_best, there.needed)
    runs = there.of({run.key for run in gone.runs}, {step.name.rpartition("-")[2] for step in gone.steps})
    folders = [folder for run in runs if (folder := artifacts_of(store, run)) and folder.is_dir()]
    freed = sum(map(size_of, folders))
    if dry_run:
        say(f"{len(runs)} runs in MLflow at {store.address}, {size_text(freed)} of files")
    elif runs:
        forget(store, root, runs)
        if not store.root:
            say(f"MLflow at {store.address} has marked {len(runs)} runs as deleted; `mlflow gc` there frees their room")
    return there.needed, gone, freed


def _list(gone: Expired, root: Path) -> None:
    table = Table("what", "name", "size", box=None, pad_edge=False)
    for path, kind in gone.folders(root).items():
        table.add_row(kind, str(path.relative_to(root)), size_text(storage_of(root).size(path)))
    output().print(table)
