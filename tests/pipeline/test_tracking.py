"""MLflow shows what the records say: in a real database, on a real server, and after a server was away."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from pipeline.artifact import read_record
from pipeline.execute import Local, run
from pipeline.mlflow_store import SETTINGS, Store, serve_ui, store_of, ui_command
from pipeline.run_record import RunRecord, read_runs
from pipeline.step import ancestors
from pipeline.tracking import Tracked, Tracker, sync
from tests.pipeline.stages import frontier


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
    record = RunRecord.of("small", arguments, run([frontier(**arguments)], root, Local()))
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
        "evaluation alpha=0.0", "evaluation alpha=0.5", "member seed=0", "member seed=1", "report",
        "statistics of member seed=0", "statistics of member seed=1",
    ]  # fmt: skip


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
    assert {one.info.status for one in runs_of(store)} == {"RUNNING"}
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
    started = time.monotonic()
    lost = [Tracker(root, store).track(record) for record in runs]
    assert time.monotonic() - started < 10
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


def test_forty_steps_are_logged_in_seconds(root):
    record = build(root, alphas=tuple(i / 25 for i in range(25)), num_members=8, epochs=100)
    assert len(record.built) > 40
    started = time.monotonic()
    assert Tracker(root, store_of(root)).track(record).problem is None
    assert time.monotonic() - started < 15  # 3 s on an idle machine


def test_a_damaged_run_record_is_one_sentence(root):
    path = build(root).write(root)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged; remove it"):
        read_runs(root)


def test_the_ui_needs_a_store(tmp_path):
    with pytest.raises(ValueError, match="no MLflow store under"):
        serve_ui(tmp_path)
    assert "127.0.0.1" in ui_command(tmp_path)
