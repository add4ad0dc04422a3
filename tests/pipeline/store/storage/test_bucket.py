"""Results in an object store, against a server that speaks S3."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.cli.flags import find_experiment, make_step
from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.engine.step import Resources, Step
from amalgam.pipeline.store.artifact import RECORD
from amalgam.pipeline.store.storage import Process, root_path, storage_of
from amalgam.pipeline.store.storage import bucket as bucket_module
from amalgam.pipeline.store.storage.lease import Lease, leased
from amalgam.pipeline.tracking.nights.record import read_nights
from amalgam.pipeline.tracking.nights.schedules import (
    Schedule,
    claim,
    firings,
    read_schedules,
    schedule_path,
    write_schedule,
)
from amalgam.pipeline.tracking.run_record import read_runs
from tests.pipeline.example import Walk, walk_step, walks

pytestmark = pytest.mark.slow
HERE = Path(__file__).parents[4]
SHOP = """
from pydantic import BaseModel
from amalgam.pipeline.engine.step import Step

class Config(BaseModel):
    seed: int

def measure(config, inputs, work):
    (work.out / "weights").write_text(str(config.seed))
    return {"accuracy/small": 0.9}

def shop(first_seed: int = 0) -> Step:
    return Step("shop", measure, Config(seed=first_seed))
"""
WALKS = f"{Path(__file__).parents[2] / 'example.py'}:walks"
SECRET = "a-secret-key-of-a-test"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path, request) -> str:
    """The address of an empty bucket; this machine's cache is as empty."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AMALGAM_CACHE", str(tmp_path / "cache"))
    host = server.partition("://")[2]
    name = f"bucket-{abs(hash(request.node.nodeid)) % 10**9}"
    pafs.S3FileSystem(endpoint_override=host, scheme="http", allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}/some/runs"


def another_machine(monkeypatch, tmp_path: Path, name: str = "other") -> None:
    """See the store with an empty cache."""
    monkeypatch.setenv("AMALGAM_CACHE", str(tmp_path / name))


def told(root: str, *targets: Step) -> list[tuple[str, str]]:
    events = list[Event]()
    run(targets, root_path(root), Local(), events.append)
    return [(event.kind, event.step.key) for event in events]


def stored(root: str) -> dict[str, bytes]:
    """What lies in the bucket, by name."""
    objects = storage_of(root_path(root)).objects
    return {name: objects.read(name) for name in objects.sizes()}


def results(root: str) -> dict[str, bytes]:
    """What the steps wrote, without records and curves, which hold times."""
    return {name: data for name, data in stored(root).items() if name.endswith(("walk.json", "total.json"))}


def test_a_step_is_built_once_for_all_machines(bucket, monkeypatch, tmp_path):
    target = walks()
    assert [kind for kind, _ in told(bucket, target)] == ["built"] * 3
    another_machine(monkeypatch, tmp_path)
    assert [kind for kind, _ in told(bucket, target)] == ["cached"] * 3
    names = set(stored(bucket))
    assert f"{target.key}/{RECORD}" in names and not any(name.startswith(".") for name in names)


def test_inputs_are_brought_to_a_machine_once(bucket, monkeypatch, tmp_path):
    told(bucket, walks())
    another_machine(monkeypatch, tmp_path)
    assert [kind for kind, _ in told(bucket, walks(scale=2.0))] == ["cached", "cached", "built"]
    copies = {path.parent.name: path.stat().st_mtime_ns for path in root_path(bucket).glob("walk-*/walk.json")}
    told(bucket, walks(scale=3.0))
    assert copies == {path.parent.name: path.stat().st_mtime_ns for path in root_path(bucket).glob("walk-*/walk.json")}
    assert len(copies) == 2


@pytest.mark.parametrize("what", ["flipped", "short", "missing", "record"])
def test_a_damaged_object_is_set_aside_and_built_again(bucket, monkeypatch, tmp_path, what):
    told(bucket, walks())
    before, spoiled = results(bucket), next(walks().parents)
    objects = storage_of(root_path(bucket)).objects
    name = f"{spoiled.key}/{RECORD if what == 'record' else 'walk.json'}"
    data = objects.read(name)
    if what == "missing":
        objects.delete(name)
    else:
        objects.write(name, data[:-1] if what == "short" else data[:9] + bytes([data[9] ^ 1]) + data[10:])
    _, damaged = storage_of(root_path(bucket)).verify()
    assert [damage.path for damage in damaged] == [f"{bucket}/{spoiled.key}"]
    another_machine(monkeypatch, tmp_path)
    kinds = told(bucket, walks(scale=2.0))
    assert ("damaged", spoiled.key) in kinds and ("built", spoiled.key) in kinds
    assert all(results(bucket)[name] == data for name, data in before.items())
    assert any(name.startswith(f".damaged/{spoiled.key}-") for name in stored(bucket))
    assert storage_of(root_path(bucket)).verify() == (4, [])


def test_an_upload_that_was_broken_off_is_no_step_and_is_written_over(bucket):
    step = walk_step(Walk())
    storage_of(root_path(bucket)).objects.write(f"{step.key}/walk.json", b"half of i")
    assert told(bucket, step) == [("built", step.key)]
    assert storage_of(root_path(bucket)).verify() == (1, [])


def test_the_commands_read_it(bucket, monkeypatch, tmp_path, capsys):
    def amalgam(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code or 0, "".join(capsys.readouterr())

    monkeypatch.setenv("AMALGAM_ROOT", bucket)
    outputs = [amalgam("run", WALKS, "--local"), amalgam("run", WALKS, "--local", "--scale", "2")]
    another_machine(monkeypatch, tmp_path)
    outputs += [amalgam("run", WALKS, "--local")]
    assert "all 3 steps were built already" in outputs[-1][1]
    outputs += [
        amalgam("show"),
        amalgam("show", make_step(find_experiment(WALKS), {}).key),
        amalgam("verify"),
        amalgam("sync"),
    ]
    assert "walk-" in outputs[3][1] and '"total"' in outputs[4][1] and "4 steps, 0 of them damaged" in outputs[5][1]
    first, second, _ = read_runs(root_path(bucket))
    outputs += [amalgam("compare", first.key, second.key)]
    assert "total" in outputs[-1][1]
    assert [code for code, _ in outputs] == [0] * len(outputs)
    assert not [text for _, text in outputs if SECRET in text]


def test_processes_that_train_together_need_a_folder(bucket):
    step = replace(walk_step(Walk()), resources=Resources(num_workers=2))
    with pytest.raises(ValueError, match=r"2 processes.*s3://"):
        run([step], root_path(bucket), Local())


def test_old_nights_are_removed_for_all_machines(bucket, monkeypatch, tmp_path, capsys):
    """What is left is what the same nights and `gc` leave of a folder; a machine that saw them forgets them too."""

    def amalgam(*arguments: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--root", root])
        assert not ended.value.code, capsys.readouterr().err

    (tmp_path / "shop.py").write_text(SHOP)
    shop = f"{tmp_path / 'shop.py'}:shop"
    for root in (str(tmp_path / "folder"), bucket):
        for day in ("2026-11-24", "2026-11-25", "2026-11-26"):
            amalgam("night", shop, "--local", "--date", day)
        here = root_path(root)
        assert len(read_nights(here, "shop")) == len(read_runs(here)) == len(storage_of(here).names()) == 3
        seen = os.environ["AMALGAM_CACHE"]
        another_machine(monkeypatch, tmp_path)
        before = len(stored(bucket)) if root == bucket else 0
        amalgam("gc", "--keep-nights", "1", "--dry-run")
        assert root != bucket or len(stored(bucket)) == before
        amalgam("gc", "--keep-nights", "1")
        monkeypatch.setenv("AMALGAM_CACHE", seen)
        monkeypatch.setattr(bucket_module, "UNSETTLED", -1.0)  # what was removed this minute may be on its way here
        assert [str(night.day) for night in read_nights(here, "shop")] == ["2026-11-26"]
        assert len(read_runs(here)) == len(storage_of(here).names()) == 1
        assert storage_of(here).verify() == (1, [])
    assert not [name for name in stored(bucket) if "2026-11-25" in name or name.startswith(".leases/")]


def test_damaged_steps_that_were_set_aside_are_known_with_their_time_and_other_objects_are_not(bucket):
    step, begun = walk_step(Walk()), time.time()
    told(bucket, step)
    storage = storage_of(root_path(bucket))
    storage.objects.write(".damaged/readme.txt", b"a note")
    place = storage.set_aside(step.key)
    [(path, when)] = storage.aside().items()
    assert place and path.name == place.rpartition("/")[2] and begun <= when <= time.time()
    assert storage.size(path) > 0
    storage.discard([path])
    assert storage.aside() == {} and list(storage.objects.sizes(".damaged")) == ["readme.txt"]


@pytest.mark.slow
def test_a_firing_is_run_by_one_of_two_machines(bucket, monkeypatch, tmp_path):
    first = root_path(bucket)
    another_machine(monkeypatch, tmp_path)
    second, day = root_path(bucket), datetime(2026, 11, 25, 2, tzinfo=UTC)
    nightly = Schedule(name="nightly", cron="0 2 * * *", timezone="UTC", command=("verify",), added=day)
    write_schedule(first, nightly)
    with pytest.raises(ValueError, match="already"):
        write_schedule(second, nightly)
    assert read_schedules(second) == [nightly]
    with ThreadPoolExecutor(2) as pool:
        claimed = list(pool.map(lambda root: claim(root, nightly, day), (first, second)))
    assert sorted(one is None for one in claimed) == [False, True]
    assert [one.id for one in firings(second, nightly)] == ["nightly-20261125-0200"]
    storage_of(second).forget(schedule_path(second, "nightly"))
    monkeypatch.setattr(bucket_module, "UNSETTLED", -1.0)
    assert read_schedules(first) == []


def test_a_bucket_that_cannot_be_written_is_one_sentence(bucket, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", WALKS, "--local", "--root", "s3://there-is-no-such-bucket/x"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "s3://there-is-no-such-bucket/x" in said


class Memory(dict):
    """Objects of this process."""

    read = dict.get
    write = dict.__setitem__

    def create(self, name: str, data: bytes) -> bool:
        return self.setdefault(name, data) is data

    def delete(self, name: str) -> None:
        self.pop(name, None)


def test_of_many_that_make_an_object_of_one_name_one_does(bucket):
    objects = storage_of(root_path(bucket)).objects
    with ThreadPoolExecutor(8) as pool:
        for name in ("first", "second"):
            made = list(pool.map(lambda number, name=name: objects.create(name, b"%d" % number), range(8)))
            assert made.count(True) == 1 and objects.read(name) == b"%d" % made.index(True)


@pytest.mark.slow
def test_of_many_that_want_a_lease_at_one_moment_one_has_it_at_a_time():
    objects, together, inside, most = Memory(), threading.Barrier(6), list[int](), list[int]()

    def take(number: int) -> None:
        together.wait()
        with leased(objects, "step", 0.2):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(6)))
    assert most == [1] * 6 and not objects


def test_a_lease_lets_nobody_in_before_its_owner_leaves():
    objects, inside, leave, entered = Memory(), threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with leased(objects, "step", 60.0):
            inside.set()
            leave.wait()

    def second() -> None:
        with leased(objects, "step", 60.0):
            entered.set()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    assert not entered.wait(0.5)
    leave.set()
    for thread in threads:
        thread.join()
    assert entered.is_set() and not objects


def test_a_lease_of_a_silent_machine_expires_and_one_of_a_dead_process_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    dead = Process.this().model_copy(update={"pid": gone.pid})
    gone.wait()
    for owner, least in ((dead.model_copy(update={"host": "elsewhere"}), 0.6), (dead, 0.0)):
        objects = Memory(step=Lease(owner=owner, id="other").model_dump_json().encode())
        begun = time.monotonic()
        with leased(objects, "step", 0.6):
            assert time.monotonic() - begun >= least
        assert not objects


def test_a_lease_that_is_damaged_is_free_which_is_logged(caplog):
    objects = Memory(step=b"{")
    with leased(objects, "step", 1000.0):
        assert Lease.model_validate_json(objects["step"]).owner == Process.this()
    assert not objects and [note.args for note in caplog.records] == [("step",)]


class Away(Memory):
    """A store that takes no second version of an object until it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.refused, self.back = threading.Event(), threading.Event()

    def write(self, name: str, data: bytes) -> None:
        if name in self and not self.back.is_set():
            self.refused.set()
            raise OSError("away")
        self[name] = data


def test_a_lease_outlives_a_store_that_is_away_for_a_moment_which_is_logged(caplog):
    objects = Away()
    with leased(objects, "step", 0.5):
        assert objects.refused.wait(60)
        first = objects["step"]
        objects.back.set()
        ends = time.monotonic() + 60
        while objects["step"] == first:
            assert time.monotonic() < ends
            time.sleep(0.05)
    assert not objects
    assert {note.args[0] for note in caplog.records if note.name.endswith("storage.lease")} == {"step"}


def test_a_lease_that_is_renewed_is_waited_for():
    objects, ended = Memory(), threading.Event()
    other = Process(host="elsewhere", pid=1, started=0.0)

    def renew() -> None:
        beat = 0
        while not ended.wait(0.05):
            beat += 1
            objects["step"] = Lease(owner=other, id="other", beat=beat).model_dump_json().encode()
        objects.delete("step")

    objects["step"] = Lease(owner=other, id="other").model_dump_json().encode()
    thread = threading.Thread(target=renew)
    thread.start()
    threading.Timer(4.0, ended.set).start()
    with leased(objects, "step", 3.0):
        assert ended.is_set()
    thread.join()


def test_a_builder_that_is_killed_lets_another_machine_build(bucket, monkeypatch, tmp_path):
    """For the lease its process is another machine's: only its silence says that it is dead."""
    step = walk_step(Walk())
    code = (
        "import socket, time; socket.gethostname = lambda: 'elsewhere'\n"
        "from amalgam.pipeline.store.storage import root_path, storage_of\n"
        f"with storage_of(root_path({bucket!r})).alone({step.key!r}): print('building', flush=True); time.sleep(1000)"
    )
    builder = subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE)
    assert builder.stdout and builder.stdout.readline() == b"building\n"
    builder.kill()
    builder.communicate()
    assert [name for name in stored(bucket) if name.startswith(".leases/")] == [f".leases/{step.key}"]
    another_machine(monkeypatch, tmp_path)
    monkeypatch.setenv("AMALGAM_LEASE_SECONDS", "1")
    assert told(bucket, step) == [("built", step.key)]
    assert not [name for name in stored(bucket) if name.startswith(".leases/")]


def test_two_drivers_at_once_share(bucket, tmp_path, monkeypatch):
    def driver(name: str) -> "subprocess.Popen[str]":
        monkeypatch.setenv("AMALGAM_CACHE", str(tmp_path / name))
        command = [sys.executable, "-m", "amalgam", "run", WALKS, "--local", "--root", bucket, "--seeds", "0,1,2,3"]
        return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    drivers = [driver("one"), driver("two")]
    outputs = [driver.communicate(timeout=280)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    storage = storage_of(root_path(bucket))
    assert storage.verify() == (5, []) and len(read_runs(root_path(bucket))) == 2
    assert not [name for name in stored(bucket) if name.startswith(".leases/")]
