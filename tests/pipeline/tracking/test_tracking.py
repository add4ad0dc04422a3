"""MLflow shows what the records say: in a real database, on a real server, and after a server was away."""

import getpass
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import read_record
from amalgam.pipeline.tracking.run_log import logged
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs
from amalgam.pipeline.tracking.serve import serve_ui, ui_command
from amalgam.pipeline.tracking.store import SETTINGS, Store, store_of
from amalgam.pipeline.tracking.sync import Tracked, Tracker, sync
from tests.pipeline.tracking.stages import frontier

pytestmark = pytest.mark.slow


USAGE = ("usage/seconds", "usage/bytes", "usage/cpu_seconds")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A new MLflow database: making one takes seconds, copying it none."""
    root = tmp_path_factory.mktemp("empty")
    MlflowClient(store_of(root).uri).search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    shutil.copy(empty_database, tmp_path)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class serving:
    """A server process that answers when the block begins and is gone when it ends."""

    def __init__(self, folder: Path, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"),
            *("--artifacts-destination", f"{folder}/files", "--host", "127.0.0.1", "--port", str(port), "-w", "1"),
        ]

    def __enter__(self) -> str:
        environment = os.environ | SETTINGS
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, env=environment, stdout=quiet, stderr=quiet, process_group=0)
        for _ in range(600):
            assert self.process.poll() is None, "the server ended"
            if Store(self.address).problem() is None:
                return self.address
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, 15)
        self.process.wait(30)


def build(root: Path, **arguments: Any) -> RunRecord:
    """Run the small experiment without MLflow and keep the run's record."""
    record, events = RunRecord.begun("small", arguments, [frontier(**arguments)]), list[Event]()
    run([frontier(**arguments)], root, Local(), events.append)
    record = reduce(RunRecord.after, events, record).ended()
    record.write(root)
    return record


def runs_of(store: Store) -> list[Run]:
    client = MlflowClient(store.uri)
    experiments = [e.experiment_id for e in client.search_experiments(ViewType.ALL)]
    return client.search_runs(experiments, order_by=["attributes.start_time ASC"])


def content(store: Store) -> list[Any]:
    """All that a store shows, in an order of its own."""
    client = MlflowClient(store.uri)
    shown = []
    for one in runs_of(store):
        run_id = one.info.run_id
        curves = {
            m: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, m)] for m in one.data.metrics
        }
        files = sorted(file.path for file in client.list_artifacts(run_id))
        tags = {name: value for name, value in one.data.tags.items() if name not in (MLFLOW_RUN_NOTE, "cached_runs")}
        tags.pop(MLFLOW_PARENT_RUN_ID, None)
        shown.append([one.info.run_name, one.info.status, one.data.params, tags, curves, files])
    return sorted(shown, key=lambda run: json.dumps(run[3], sort_keys=True))


def parent_of(store: Store, tracked: Tracked) -> Run:
    assert tracked.problem is None and tracked.run_id
    return MlflowClient(store.uri).get_run(tracked.run_id)


def test_one_parent_and_one_child_for_each_built_step(root):
    store, record = store_of(root), build(root)
    parent = parent_of(store, Tracker(root, store).track(record))
    children = [r for r in runs_of(store) if r.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent.info.run_id]
    assert {child.data.tags["fingerprint"] for child in children} == {s.fingerprint for s in ancestors([frontier()])}
    assert {child.info.status for child in children} == {parent.info.status} == {"FINISHED"}
    assert sorted(child.info.run_name for child in children) == [
        "evaluation alpha=0.0",
        "evaluation alpha=0.5",
        "member seed=0",
        "member seed=1",
        "report",
        "statistics of member seed=0",
        "statistics of member seed=1",
    ]


def test_a_child_shows_all_of_its_record(root):
    store = store_of(root)
    Tracker(root, store).track(build(root, epochs=5))
    client = MlflowClient(store.uri)
    child = next(one for one in runs_of(store) if one.info.run_name == "member seed=1")
    assert child.data.params == {"seed": "1", "epochs": "5"}
    assert child.data.metrics["test/accuracy"] == 0.91
    assert [point.step for point in client.get_metric_history(child.info.run_id, "train/loss")] == [0, 1, 2, 3, 4]
    assert child.data.metrics["validation/accuracy"] == 0.97, "the summary, not the last point of the curve"
    files = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert files == {"model.safetensors", "step.json"}
    record = read_record(next(root.glob(f"*-{child.data.tags['fingerprint']}")))
    assert child.info.start_time == int(1000 * record.started)
    assert child.data.tags["git_commit"] == record.git_commit
    assert child.data.tags["step"] == "member"


def test_the_data_fingerprint_reaches_every_step(root):
    store = store_of(root)
    Tracker(root, store).track(build(root))
    children = [one for one in runs_of(store) if MLFLOW_PARENT_RUN_ID in one.data.tags]
    assert {child.data.tags["data_fingerprint"] for child in children} == {"d" * 16}


def test_user_and_commit_are_those_of_the_users_code(root, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.chdir(theirs)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "empty"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    Tracker(root, store_of(root)).track(build(root))
    assert {one.data.tags["mlflow.source.git.commit"] for one in runs_of(store_of(root))} == {commit}
    assert {one.data.tags["mlflow.user"] for one in runs_of(store_of(root))} == {getpass.getuser()}


def test_steps_show_what_they_took_of_their_machine(root):
    Tracker(root, store_of(root)).track(build(root))
    member = next(one for one in runs_of(store_of(root)) if one.info.run_name == "member seed=1").data.metrics
    assert member["system/peak_memory_megabytes"] > 1 and member["system/cpu_utilization_percentage"] >= 0
    parent = next(one for one in runs_of(store_of(root)) if one.data.tags["step"] == "experiment").data.metrics
    assert parent["usage/cpu_seconds"] >= member["usage/cpu_seconds"] >= 0


def front(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    for cost, accuracy in ((100, 0.7), (150, 0.8), (400, 0.9)):
        work.log({"frontier/accuracy": accuracy}, step=cost)
    return {"accuracy/PartialOT 0": 0.7, "accuracy/PartialOT 0.4": 0.8, "total": 3.0}


def test_a_frontier_is_one_curve_by_cost_on_the_page_of_the_run(root):
    step = Step("report", front)
    with logged(RunRecord.begun("front", {}, [step]), root, store_of(root)) as log:
        run([step], root, Local(), log.hear)
    parent = next(one for one in runs_of(store_of(root)) if one.data.tags["step"] == "experiment")
    assert set(parent.data.metrics) == {"frontier/accuracy", "total", *USAGE}
    points = MlflowClient(store_of(root).uri).get_metric_history(parent.info.run_id, "frontier/accuracy")
    assert [(point.step, point.value) for point in points] == [(100, 0.7), (150, 0.8), (400, 0.9)]


def test_a_note_that_no_tag_can_hold_is_a_file_and_every_cached_step_is_in_it(root):
    alphas = tuple(number / 1000 for number in range(80))
    build(root, alphas=alphas)
    store, again = store_of(root), build(root, alphas=alphas)
    sync(root, store)
    parent = next(one for one in runs_of(store) if one.data.tags.get("run") == again.key)
    client = MlflowClient(store.uri)
    note = Path(client.download_artifacts(parent.info.run_id, "note.md")).read_text()
    assert all(f"evaluation-{key}" in note for key in again.cached[4:-1])
    assert "note.md" in parent.data.tags[MLFLOW_RUN_NOTE]


def test_staged_rows_are_inputs_and_not_copies(root):
    store = store_of(root)
    Tracker(root, store).track(build(root))
    staged = next(one for one in runs_of(store) if one.info.run_name == "statistics of member seed=0")
    file = next(root.glob(f"*-{staged.data.tags['fingerprint']}")) / "rows.parquet"
    (dataset_input,) = staged.inputs.dataset_inputs
    dataset = dataset_input.dataset
    assert json.loads(dataset.source) == {"uri": file.as_uri()}
    assert json.loads(dataset.profile)["num_rows"] == 50
    assert "layers.1" in dataset.schema and len(dataset.digest) == 32
    assert [f.path for f in MlflowClient(store.uri).list_artifacts(staged.info.run_id)] == ["step.json"]
    reader = next(one for one in runs_of(store) if one.info.run_name == "evaluation alpha=0.5")
    assert {one.tags[0].value for one in reader.inputs.dataset_inputs} == {"read"}
    assert len(reader.inputs.dataset_inputs) == 2


def test_the_parent_shows_the_result(root):
    store = store_of(root)
    parent = parent_of(store, Tracker(root, store).track(build(root, alphas=(0.0, 0.5))))
    assert parent.data.metrics["test/accuracy"] == 0.97
    assert parent.data.params == {"alphas": "[0.0, 0.5]"}
    files = {file.path for file in MlflowClient(store.uri).list_artifacts(parent.info.run_id)}
    assert files == {"frontier.md", "frontier.csv", "frontier.html"}
    assert "| 0.5 | 0.93 |" in parent.data.tags[MLFLOW_RUN_NOTE]


def test_a_cached_step_is_a_link_to_the_run_that_built_it(root):
    store = store_of(root)
    first = parent_of(store, Tracker(root, store).track(build(root)))
    built = {one.data.tags["fingerprint"]: one.info.run_id for one in runs_of(store) if "fingerprint" in one.data.tags}
    again = build(root, alphas=(0.0, 0.5, 1.0))
    second = parent_of(store, Tracker(root, store).track(again))
    linked = set(second.data.tags["cached_runs"].split())
    assert linked == {built[fingerprint] for fingerprint in again.cached}
    assert all(f"/runs/{run_id}" in second.data.tags[MLFLOW_RUN_NOTE] for run_id in linked)
    parents = [one.data.tags.get(MLFLOW_PARENT_RUN_ID) for one in runs_of(store)]
    assert parents.count(first.info.run_id) == 7 and parents.count(second.info.run_id) == 2


def test_logging_again_changes_nothing(root):
    store, record = store_of(root), build(root)
    Tracker(root, store).track(record)
    before = content(store)
    Tracker(root, store).track(record)
    assert not [tracked.problem for tracked in sync(root, store) if tracked.problem]
    assert content(store) == before


def test_an_attempt_that_broke_off_is_completed(root, empty_database):
    store, record = store_of(root), build(root)
    (root / "mlartifacts").write_text("a file where MLflow wants its folder")
    assert "mlartifacts" in (Tracker(root, store).track(record).problem or "")
    assert [one.info.status for one in runs_of(store)] == ["RUNNING"], "steps are shown whole or not at all"
    (root / "mlartifacts").unlink()
    assert Tracker(root, store).track(record).problem is None
    shutil.copy(empty_database, root / "other.db")
    whole = Store(f"sqlite:///{root / 'other.db'}", str(root / "other"))
    Tracker(root, whole).track(record)
    assert content(store) == content(whole)


def test_a_run_is_shown_while_it_goes_on(root):
    store, record = store_of(root), build(root)
    tracker = Tracker(root, store)
    going = record.model_copy(update={"seconds": None, "built": record.built[:3]})
    assert parent_of(store, tracker.track(going)).info.status == "RUNNING"
    assert len(runs_of(store)) == 1 + 3
    assert parent_of(store, tracker.track(record)).info.status == "FINISHED"
    assert len(runs_of(store)) == 1 + 7


def test_a_run_shown_at_every_step_looks_in_the_end_as_one_shown_at_once(root, empty_database):
    target, store = frontier(), store_of(root)

    def hear_and_look(event: Event) -> None:
        log.hear(event)
        ends = time.monotonic() + 100
        while {one.info.status for one in runs_of(store)} != {"RUNNING", "FINISHED"}:
            assert time.monotonic() < ends, "it is not shown while it goes on"

    with logged(RunRecord.begun("small", {}, [target]), root, store, every=0) as log:
        run([target], root, Local(), hear_and_look)
    shutil.copy(empty_database, root / "other.db")
    at_once = Store(f"sqlite:///{root / 'other.db'}", str(root / "other"))
    sync(root, at_once)
    assert content(store) == content(at_once)


def test_a_run_that_is_broken_off_says_so(root):
    def interrupt(event: Event) -> None:
        log.hear(event)
        if event.step.name == "member":
            raise KeyboardInterrupt

    begun = RunRecord.begun("small", {}, [frontier()])
    with pytest.raises(KeyboardInterrupt), logged(begun, root, store_of(root)) as log:
        assert read_runs(root) == [begun], "a driver that is killed in its first step leaves a record as well"
        run([frontier()], root, Local(), interrupt)
    [record] = read_runs(root)
    assert len(record.built) == 1 and record.failures == ("broken off: KeyboardInterrupt",)
    assert sorted(one.info.status for one in runs_of(store_of(root))) == ["FAILED", "FINISHED"]


def test_a_killed_driver_leaves_a_record_that_sync_logs(root):
    """The second walk kills its process, which is the driver's own."""
    (root / "fatal.py").write_text(
        "from tests.pipeline.example import Walk, total_step, walk_step\n"
        "def fatal(): return total_step((walk_step(Walk()), walk_step(Walk(seed=1, dies_at=2))))\n"
    )
    command = [sys.executable, "-m", "amalgam", "run", f"{root / 'fatal.py'}:fatal", "--local", "--root", str(root)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True).returncode == -9
    [tracked] = sync(root, store_of(root))
    assert len(tracked.run.built) == 1 and tracked.run.seconds is not None
    assert parent_of(store_of(root), tracked).info.status == "KILLED"
    assert [one.data.tags.get("step") for one in runs_of(store_of(root))] == ["experiment", "walk"]


def test_a_run_whose_step_was_removed_does_not_stop_the_others(root):
    removed, whole = build(root, epochs=2), build(root, epochs=4)
    shutil.rmtree(next(root.glob(f"*-{removed.built[0]}")))
    first, second = sync(root, store_of(root))
    assert first.problem and "no finished step lies in" in first.line and str(removed.path(root)) in first.line
    assert parent_of(store_of(root), second).info.status == "FINISHED"
    assert second.run == whole and len(runs_of(store_of(root))) == 1 + 7, "nothing is shown of the first"


def test_syncing_from_another_time_zone_adds_no_run(root, monkeypatch):
    Tracker(root, store_of(root)).track(build(root))
    monkeypatch.setenv("TZ", "Asia/Tokyo" if time.timezone != -9 * 3600 else "UTC")
    time.tzset()
    try:
        sync(root, store_of(root))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(runs_of(store_of(root))) == 1 + 7


def not_finite(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    for step, value in enumerate((1.0, math.nan, math.inf)):
        work.log({"train/loss": value}, step)
    return {"test/nll": math.nan, "test/accuracy": 0.5}


def test_numbers_that_are_not_finite_are_shown(root):
    step = Step("astray", not_finite)
    record = RunRecord.begun("astray", {}, [step])
    with logged(record, root, store_of(root)) as log:
        run([step], root, Local(), log.hear)
    child = next(one for one in runs_of(store_of(root)) if one.info.run_name == "astray" and one.data.metrics)
    assert math.isnan(child.data.metrics["test/nll"]) and child.data.metrics["test/accuracy"] == 0.5
    _, astray, beyond = MlflowClient(store_of(root).uri).get_metric_history(child.info.run_id, "train/loss")
    assert math.isnan(astray.value) and beyond.value > 1e300


def test_a_run_with_failures_is_marked_and_named(root):
    store, record = store_of(root), build(root)
    failed = record.model_copy(update={"failures": ("step member-0123: NaN loss in epoch 3",)})
    parent = parent_of(store, Tracker(root, store).track(failed))
    assert parent.info.status == "FAILED"
    assert "NaN loss in epoch 3" in parent.data.tags[MLFLOW_RUN_NOTE]


def test_a_server_that_is_away_costs_a_sentence_and_nothing_is_lost(root, tmp_path, empty_database):
    port = free_port()
    store = Store(f"http://127.0.0.1:{port}")
    runs = [build(root), build(root, alphas=(0.25,))]
    lost = [Tracker(root, store).track(record) for record in runs]
    assert all("did not take the run" in one.line and "amalgam sync" in one.line for one in lost)
    assert read_runs(root) == runs
    shutil.copy(empty_database, tmp_path / "server.db")
    with serving(tmp_path, port):
        synced = sync(root, store)
        assert [one.problem for one in synced] == [None, None]
        assert urllib.request.urlopen(synced[0].url or "").status == 200
        sync(root, store_of(root))
        assert content(store) == content(store_of(root)), "a server shows what a database shows"


@pytest.mark.parametrize("uri", ["sqlite:///{root}/damaged.db", "file://{root}/mlruns", "nonsense://x"])
def test_a_store_that_is_none_costs_a_sentence(root, uri):
    (root / "damaged.db").write_text("no database" * 1000)
    tracked = Tracker(root, Store(uri.format(root=root))).track(build(root))
    assert tracked.problem and "\n" not in tracked.line
    assert len(read_runs(root)) == 1


def test_an_empty_store_is_filled_from_the_records(root, empty_database):
    for arguments in ({}, {"alphas": (0.25,)}, {}):
        build(root, **arguments)
    sync(root, store_of(root))
    shutil.copy(empty_database, root / "other.db")
    other = Store(f"sqlite:///{root / 'other.db'}", str(root / "other"))
    sync(root, other)
    assert content(other) == content(store_of(root))


@pytest.mark.parametrize("epochs", [3, 100])
def test_a_step_is_logged_in_one_batch_however_long_its_curves(root, epochs, monkeypatch):
    """One call per point would take seconds per step."""
    batches = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *call: batches.append(call[1]) or log_batch(*call))
    record = build(root, epochs=epochs)
    assert Tracker(root, store_of(root)).track(record).problem is None
    assert len(batches) == len(set(batches)) == len(record.built) + 1


def test_a_damaged_run_record_is_one_sentence_and_stops_no_other(root, capsys):
    path = build(root).write(root)
    path.write_text("{")
    whole = build(root, epochs=4)
    with pytest.raises(SystemExit) as ended:
        main(["sync", "--root", str(root)])
    first, second = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and str(path) in first and whole.key in second
    assert len(runs_of(store_of(root))) == 1 + 7


def test_the_ui_needs_a_store(tmp_path):
    with pytest.raises(ValueError, match="no MLflow store under"):
        serve_ui(tmp_path)
    assert "127.0.0.1" in ui_command(tmp_path)
