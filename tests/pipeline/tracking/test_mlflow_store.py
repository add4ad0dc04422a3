"""The store that MLflow keeps runs in: made whole, found wherever its root lies, and never in the way of a result."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow import MlflowClient
from sqlalchemy.engine import make_url

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.store.storage import Process
from amalgam.pipeline.tracking.client import pages
from amalgam.pipeline.tracking.database import prepared
from amalgam.pipeline.tracking.run_record import RunRecord, bury_dead, read_runs
from amalgam.pipeline.tracking.serve import require_free
from amalgam.pipeline.tracking.store import Store, store_of
from amalgam.pipeline.tracking.sync import Tracker, sync
from tests.pipeline.example import walks

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[3]
WALKS = f"{Path(__file__).parents[1] / 'example.py'}:walks"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    prepared(store_of(root))
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    shutil.copy(empty_database, tmp_path)
    return tmp_path


def shown(root: Path) -> list[str]:
    """The status of every run that the store of a root shows."""
    client = MlflowClient(store_of(root).uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return sorted(run.info.status for run in runs)


def started(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "amalgam", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=HERE, text=True, **pipes)


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    """Answers /health, and nothing else for a long time; keeps what it was asked with."""

    seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        if self.path != "/health":
            time.sleep(60)
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("name", ["try%20one", "50%", "a?b=c", "two words", "a#b", "é&ü"])
def test_the_database_lies_in_its_root_whatever_the_root_is_called(tmp_path, empty_database, name):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(empty_database, root)
    store = store_of(root)
    assert make_url(store.uri).database == str(root / "mlflow.db")
    record = RunRecord.begun("odd", {}, [walks()]).ended()
    assert Tracker(root, store).track(record).problem is None
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert shown(root) == ["FINISHED"]


@pytest.mark.parametrize("content", [b"", b"no database", "half"])
def test_a_database_that_was_never_whole_is_made_anew(tmp_path, content):
    root, database = tmp_path, tmp_path / "mlflow.db"
    if content == "half":
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE experiments (id INTEGER)")
    else:
        database.write_bytes(content)
    record = RunRecord.begun("one", {}, [walks()]).ended()
    record.write(root)
    [tracked] = sync(root, store_of(root))
    assert tracked.problem is None and shown(root) == ["FINISHED"]
    assert (root / "mlflow.db.damaged").is_file()


def test_files_are_found_after_the_root_was_moved(root, tmp_path_factory):
    record = RunRecord.begun("moved", {}, [walks()]).ended()
    run_id = Tracker(root, store_of(root)).track(record).run_id
    (root / "note").write_text("content")
    MlflowClient(store_of(root).uri).log_artifact(run_id, str(root / "note"))
    there = tmp_path_factory.mktemp("elsewhere") / "runs%20now"
    shutil.move(root, there)
    client = MlflowClient(prepared(store_of(there)).uri)
    assert [file.path for file in client.list_artifacts(run_id)] == ["note"]
    assert Path(client.download_artifacts(run_id, "note")).read_text() == "content"


def test_two_drivers_on_a_fresh_root_share_and_neither_errs(tmp_path):
    drivers = [started("run", WALKS, "--local", "--root", tmp_path) for _ in range(2)]
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert not [text for text in outputs if "did not take" in text or "Traceback" in text]
    assert shown(tmp_path) == ["FINISHED"] * (2 + 3)


def test_all_pages_of_a_search_are_read(root):
    client = MlflowClient(store_of(root).uri)
    for name in "abc":
        client.create_registered_model(name)
        client.create_model_version(name, root.as_uri())
    found = list(pages(client.search_model_versions, max_results=1))
    assert sorted(version.name for version in found) == ["a", "b", "c"]


def test_runs_that_begin_at_the_same_instant_are_two(root, monkeypatch):
    """In one millisecond two drivers of one command differ in nothing but chance."""
    now = time.time()
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now)
        runs = [RunRecord.begun("walks", {}, [walks()]) for _ in range(2)]
    for run in runs:
        run.ended().write(root)
    assert len(read_runs(root)) == 2 and [one.problem for one in sync(root, store_of(root))] == [None, None]
    assert shown(root) == ["FINISHED"] * 2


def test_a_server_that_hangs_costs_seconds_and_passwords_are_not_printed(tmp_path, capsys):
    with answering(Quiet) as address:
        begun = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            uri = f"http://someone:secret%21word@{address}"
            main(["run", WALKS, "--local", "--root", str(tmp_path), "--tracking-uri", uri])
        took = time.monotonic() - begun
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and "total = " in out and "amalgam sync" in out
    assert took < 45 and not [word for word in ("secret", "someone") if word in out + err]
    assert set(Quiet.seen[:1]) == {"Basic c29tZW9uZTpzZWNyZXQhd29yZA=="}


def test_an_answer_that_is_lost_doubles_no_run(root, monkeypatch):
    create, lost = MlflowClient.create_run, list[str]()

    def create_and_lose_the_answer(*arguments: object, **named: object) -> object:
        made = create(*arguments, **named)
        if not lost:
            lost.append(made.info.run_id)
            raise ConnectionError("the answer was lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
    tracked = Tracker(root, store_of(root)).track(RunRecord.begun("one", {}, [walks()]).ended())
    assert [tracked.run_id] == lost and shown(root) == ["FINISHED"]


def test_what_a_library_says_is_repeated_without_the_password():
    store = Store("postgresql://someone:p%40ss@db.example:5432/mlflow")
    assert store.address == "postgresql://db.example:5432/mlflow"
    said = store.without_secrets(f"cannot connect to {store.uri} with p@ss or p%40ss")
    assert "p@ss" not in said and "p%40ss" not in said and "db.example" in said


@pytest.mark.parametrize(
    "uri", ["nonsense://x", "ftp://host/x", "postgresql+nodriver://host/x", "file:///tmp/x", "runs/x"]
)
def test_an_address_that_no_store_can_have_is_refused_before_anything_runs(tmp_path, uri, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", WALKS, "--local", "--root", str(tmp_path / "runs"), "--tracking-uri", uri])
    assert ended.value.code == 2 and not (tmp_path / "runs").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_runs_of_dead_drivers_become_killed_for_whoever_sees_them(root):
    dead = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    import psutil

    driver = Process.this().model_copy(update={"pid": dead.pid, "started": psutil.Process(dead.pid).create_time()})
    record = RunRecord.begun("dead", {}, [walks()]).model_copy(update={"driver": driver})
    record.write(root)
    assert bury_dead(root) == [] and shown(root) == []
    dead.kill()
    dead.wait()
    assert [tracked.problem for tracked in sync(root, store_of(root))] == [None]
    assert shown(root) == ["KILLED"] and [run.status for run in read_runs(root)] == ["KILLED"]


def test_a_driver_of_another_machine_or_with_a_number_used_again_is_known_from_this_one():
    this = Process.this()
    assert not this.is_dead
    assert not this.model_copy(update={"host": "elsewhere", "pid": 2**22 - 1}).is_dead
    assert this.model_copy(update={"started": this.started - 60}).is_dead


def test_a_run_that_is_terminated_is_shown_as_killed_at_once(root, tmp_path):
    (root / "slow.py").write_text(
        "import time\nfrom amalgam.pipeline.engine.step import Step\n"
        "def wait(config, inputs, work): open(work.scratch / 'here', 'w').close(); time.sleep(100); return {}\n"
        "def slow(): return Step('slow', wait)\n"
    )
    driver = started("run", f"{root / 'slow.py'}:slow", "--local", "--root", root)
    ends = time.monotonic() + 60
    while not list(root.glob(".building/*/scratch/here")):
        assert time.monotonic() < ends and driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 128 + signal.SIGTERM, output
    assert shown(root) == ["KILLED"]


def test_a_port_that_is_taken_is_refused(root, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .*another --port"):
            require_free(port)
    with pytest.raises(SystemExit) as ended:
        main(["ui", "--root", str(root), "--port", "70000"])
    assert ended.value.code == 2


def test_the_server_of_the_ui_ends_with_it(root):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ui = started("ui", "--root", root, "--port", port)
    ends = time.monotonic() + 120
    while Store(f"http://127.0.0.1:{port}").problem():
        assert time.monotonic() < ends and ui.poll() is None
        time.sleep(0.2)
    ui.send_signal(signal.SIGTERM)
    ui.communicate(timeout=30)
    require_free(port)
    assert not [pid for pid in os.listdir("/proc") if pid.isdecimal() and f"--port\0{port}\0" in _command(pid)]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
