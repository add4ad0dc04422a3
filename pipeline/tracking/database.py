"""The database under a root: made whole or not at all, by one driver, and right again after its folder was moved."""

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from filelock import FileLock

from amalgam.pipeline.console import say
from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.tracking.store import ARTIFACTS, DATABASE, Store, plainly, sqlite_uri

LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's that hold whole paths of files."""
PATIENCE = 60  # seconds to wait for another driver that logs


def tracking_lock(root: Path) -> FileLock:
    """The lock of the driver that makes the database or logs runs: two would show one step twice."""
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(root / ".locks" / "mlflow", timeout=PATIENCE, fallback_to_soft=False, is_singleton=True)


def prepared(store: Store) -> Store:
    """The store; that of a root has a database, and its files lie where the root is now."""
    if store.root is None:
        return store
    database = store.root / DATABASE
    with tracking_lock(store.root):
        if (link := plainly(store.root)) != store.root and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(store.root)
        if database.is_file() and not _is_whole(database):
            place = database.with_name(f"{DATABASE}.damaged")
            database.replace(place)
            say(f"{database} was no database of MLflow, set aside as {place}; `amalgam sync` logs its runs anew")
        if not database.is_file():
            _make(database)
            without_trace(store)
        _move_artifacts(database, (plainly(store.root) / ARTIFACTS).as_uri())
    return store


def without_trace(store: Store) -> None:
    """Remove the empty folder that MLflow makes where a quoted path would lie that it takes as it is written."""
    quoted = Path(store.uri.removeprefix("sqlite:///")).parent
    if store.root and quoted != store.root:
        with suppress(OSError):
            quoted.rmdir()


def _make(database: Path) -> None:
    """Let MLflow make its tables beside the place and rename: broken off halfway they would be unusable for good."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # here, not above: it takes seconds to import

    # Making tables sets up logging anew, after which a second database of the process would be announced.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with written_whole(database) as partial:
        made = SqlAlchemyStore(sqlite_uri(partial), (plainly(database.parent) / ARTIFACTS).as_uri())
        made.engine.dispose()


def _is_whole(database: Path) -> bool:
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT 1 FROM runs, experiments, alembic_version LIMIT 1")
        return True
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)  # locked or unreadable is not damaged
    except sqlite3.DatabaseError:
        return False


def _move_artifacts(database: Path, artifacts: str) -> None:
    """Write anew where files lie, for those of a root that had another name: MLflow keeps whole paths."""
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection, connection:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        ours = [place for (place,) in found if place and place.rstrip("/").rpartition("/")[2] == ARTIFACTS]
        for old in ours:
            if old == artifacts:
                continue
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (artifacts, old)
            )
            for table, column in LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (artifacts, len(old) + 1, len(old), old),
                )
