"""MLflow on a real PostgreSQL: what a root holds is shown there as in its own database, once, and after an outage."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import Store, store_of
from amalgam.pipeline.tracking.sync import Tracker, sync
from tests.pipeline.tracking.stages import frontier
from tests.pipeline.tracking.test_tracking import free_port

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
INITDB = shutil.which("initdb", path=str(BINARIES) if BINARIES else None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INITDB is None, reason="there is no PostgreSQL on this machine (initdb)"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg2") is None, reason="the module psycopg2 is not installed"),
]
PASSWORD = "p@ss/word"


class Server:
    """A PostgreSQL of its own, on the loopback address alone."""

    def __init__(self, folder: Path) -> None:
        assert INITDB is not None
        self.folder, self.port, self.bin = folder, free_port(), Path(INITDB).parent
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, "nobody")
        where = ["-D", str(folder / "data"), "-U", "mlflow", f"--pwfile={secret}", "-A", "scram-sha-256", "-N"]
        self._run("initdb", where)
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run(
            "pg_ctl", ["-D", str(self.folder / "data"), "-w", "-t", "120", "-l", "/dev/null", "-o", options, "start"]
        )

    def stop(self) -> None:
        self._run("pg_ctl", ["-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop"])

    @property
    def store(self) -> Store:
        address = f"postgresql+psycopg2://mlflow:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"
        return Store(address, (self.folder / "artifacts").as_uri())

    def _run(self, program: str, arguments: Sequence[str]) -> None:
        # PostgreSQL refuses to run as root.
        who = {"user": "nobody"} if os.geteuid() == 0 else {}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([str(self.bin / program), *arguments], cwd=self.folder, check=True, **who, **quiet)


@contextmanager
def folder() -> Iterator[Path]:
    """Where another user may write too, as pytest's folders are not."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with folder() as place:
        running = Server(place)
        try:
            yield running
        finally:
            running.stop()


def recorded(root: Path) -> RunRecord:
    """A run of the experiment, its record kept."""
    events, target = list[Event](), frontier()
    run([target], root, Local(), events.append)
    record = reduce(RunRecord.after, events, RunRecord.begun("frontier", {}, [target])).ended()
    record.write(root)
    return record


def shown(store: Store) -> dict[str, tuple[str, dict[str, float], dict[str, str]]]:
    """Status, metrics and parameters of every run, by what identifies it."""
    client = MlflowClient(store.uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    found = {r.data.tags.get("fingerprint", "run"): (r.info.status, r.data.metrics, r.data.params) for r in runs}
    assert len(found) == len(runs), "a run is shown twice"
    return found


def test_a_run_is_shown_in_postgresql_as_in_the_database_of_its_root(server, tmp_path):
    record, own = recorded(tmp_path), store_of(tmp_path)
    for store in (own, server.store, server.store):
        tracked = Tracker(tmp_path, store).track(record)
        assert tracked.problem is None, tracked.problem
        assert PASSWORD not in tracked.line and quote(PASSWORD, safe="") not in tracked.line
    assert shown(server.store) == shown(own) and {status for status, *_ in shown(own).values()} == {"FINISHED"}


def test_a_database_that_was_away_is_given_the_run_by_the_next_sync(server, tmp_path):
    record = recorded(tmp_path)
    before = len(MlflowClient(server.store.uri).search_experiments())
    server.stop()
    try:
        away = Tracker(tmp_path, server.store).track(record)
    finally:
        server.start()
    assert away.problem and PASSWORD not in away.line and quote(PASSWORD, safe="") not in away.line
    done = sync(tmp_path, server.store)
    assert [one.problem for one in done] == [None]
    client = MlflowClient(server.store.uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], f"tags.run = '{record.key}'")
    assert [one.info.status for one in runs] == ["FINISHED"] and before <= len(client.search_experiments())
