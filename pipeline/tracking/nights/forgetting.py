"""MLflow's rows and files of runs and steps that are no longer under a root."""

import shutil
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from amalgam.pipeline.tracking import view
from amalgam.pipeline.tracking.client import RunsInStore, pages
from amalgam.pipeline.tracking.database import tracking_lock
from amalgam.pipeline.tracking.store import ARTIFACTS, DATABASE, Store, sqlite_uri, store_of


@dataclass(frozen=True)
class Shown:
    """What a store shows of a root."""

    runs: tuple[Run, ...]
    registered: frozenset[str]
    """Ids of the runs whose models are registered."""

    @property
    def needed(self) -> set[str]:
        """Fingerprints of the steps of registered models."""
        tags = [run.data.tags for run in self.runs if run.info.run_id in self.registered]
        return {each[view.FINGERPRINT] for each in tags if view.FINGERPRINT in each}

    def of(self, keys: Collection[str], fingerprints: Collection[str]) -> list[Run]:
        """The runs that show these runs and steps, save those whose models are registered."""
        return [
            run
            for run in self.runs
            if run.info.run_id not in self.registered
            and (run.data.tags.get(view.RUN_KEY) in keys or run.data.tags.get(view.FINGERPRINT) in fingerprints)
        ]


def shown(store: Store) -> Shown:
    """All runs of a store, and which of them have registered models."""
    runs = RunsInStore(store)
    versions = pages(runs.client.search_model_versions)
    return Shown(tuple(runs.every()), frozenset(str(version.run_id) for version in versions if version.run_id))


def forget(store: Store, root: Path, runs: Collection[Run]) -> None:
    """Remove these runs: from the root's own database for good, from another store as its users do.

    A step that stays and was shown below one of them is shown on its own.
    """
    there, ids = RunsInStore(store), {run.info.run_id for run in runs}
    with tracking_lock(root):
        for run in there.every():
            if run.data.tags.get(MLFLOW_PARENT_RUN_ID) in ids and run.info.run_id not in ids:
                there.client.delete_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID)
        for run in runs:
            there.client.delete_run(run.info.run_id)
        if store.root and ids:
            _purge(store.root, ids)


def artifacts_of(store: Store, run: Run) -> Path | None:
    """The folder of a run's files in the root's own store."""
    return store.root / ARTIFACTS / run.info.run_id if store.root else None


def _purge(root: Path, ids: Iterable[str]) -> None:
    """Remove deleted runs and their files for good, and give the database's file its room back.

    As `mlflow gc` does, whose method this is, but without the ten seconds in which that command is imported.
    """
    store = SqlAlchemyStore(sqlite_uri(root / DATABASE), str(store_of(root).artifacts))
    for run_id in ids:
        store._hard_delete_run(run_id)
        shutil.rmtree(root / ARTIFACTS / run_id, ignore_errors=True)
    store.engine.dispose()
    with closing(sqlite3.connect(root / DATABASE)) as connection:
        connection.execute("VACUUM")
