"""What `amalgam gc` removes and what it never does; a root that has a night every day does not grow."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.cli.flags import find_experiment, make_step
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.store.artifact import read_records
from amalgam.pipeline.store.storage import size_of
from amalgam.pipeline.tracking.database import prepared
from amalgam.pipeline.tracking.nights.record import read_nights, set_alias
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs
from amalgam.pipeline.tracking.store import DATABASE, store_of

pytestmark = pytest.mark.slow
WALKS = f"{Path(__file__).parents[2] / 'example.py'}:walks"
EXPERIMENT = """
from pydantic import BaseModel
from amalgam.pipeline.engine.step import Step

class Config(BaseModel):
    seed: int

def member(config, inputs, work):
    (work.out / "weights").write_bytes(bytes(20000))
    return {}

def measure(config, inputs, work):
    (work.out / "report").write_bytes(bytes(1000))
    return {"accuracy": 0.9 + (config.seed // 10000 % 7) / 1000}

def shop(first_seed: int = 0) -> Step:
    shared = Step("shared", member, Config(seed=0))
    own = Step("member", member, Config(seed=first_seed))
    return Step("shop", measure, Config(seed=first_seed), {"members": (shared, own)})
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    return prepared(store_of(tmp_path_factory.mktemp("empty"))).root / DATABASE


@pytest.fixture
def root(tmp_path, empty_database):
    (tmp_path / "shop.py").write_text(EXPERIMENT)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs")
    return tmp_path / "runs"


def ended(*command) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in command])
    return left.value.code or 0


def night(root: Path, day: int, *flags: str) -> None:
    date = f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}"
    experiment = f"{root.parent / 'shop.py'}:shop"
    assert ended("night", experiment, "--local", "--root", root, "--date", date, *flags) == 0


def collect(root: Path, *flags: object) -> None:
    assert ended("gc", "--root", root, *flags) == 0


def days(root: Path) -> list[int]:
    return [28 * (night.day.month - 1) + night.day.day - 1 for night in read_nights(root, "shop")]


def in_mlflow(root: Path) -> dict[str, str]:
    """Status of each run that MLflow has, deleted or not, by the fingerprint of its step or the key of its run."""
    client = MlflowClient(store_of(root).uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()], run_view_type=ViewType.ALL)
    return {run.data.tags.get("fingerprint") or run.data.tags["run"]: run.info.status for run in runs}


def whole(root: Path) -> None:
    """Every step that a run links to is there, and MLflow shows just the runs and steps that are."""
    records = {record.fingerprint for record in read_records(root)}
    linked = {key for run in read_runs(root) for key in run.links}
    assert linked == records
    assert in_mlflow(root).keys() == records | {run.key for run in read_runs(root)}


def test_the_newest_nights_and_the_best_stay_with_all_that_they_link_to(root, capsys):
    for day in range(5):
        night(root, day)
    listing = sorted(root.rglob("*"))
    capsys.readouterr()
    collect(root, "--keep-nights", 2, "--keep-best", "--dry-run")
    assert sorted(root.rglob("*")) == listing
    said = capsys.readouterr().out
    best = max(read_nights(root, "shop"), key=lambda one: one.metrics["accuracy"])
    gone = [one for one in read_nights(root, "shop")[:3] if one != best]
    listed = [line.split() for line in said.splitlines()]
    assert [name for kind, name, *_ in listed if kind == "night"] == [f".nights/shop/{one.day}-0" for one in gone]
    assert said.count("step   member-") == said.count("step   shop-") == len(gone)
    assert "shared-" not in said and "kB" in said
    collect(root, "--keep-nights", 2, "--keep-best")
    assert set(days(root)) == {3, 4, best.day.day - 1}
    whole(root)
    assert ended("verify", "--root", root) == 0


def test_aliases_baselines_and_running_drivers_keep_what_they_link_to(root, capsys):
    night(root, 0)
    night(root, 1)
    baseline, alias = [one.run for one in read_nights(root, "shop")]
    set_alias(root, "champion", alias)
    for day in (2, 3):
        night(root, day, "--baseline", baseline)
    target = make_step(find_experiment(WALKS), {})
    going = RunRecord.begun("later", {}, [target])
    assert ended("run", WALKS, "--local", "--root", root) == 0
    begun = [run for run in read_runs(root) if run.experiment == "walks"]
    begun[0].path(root).unlink()
    going.write(root)
    collect(root, "--keep-nights", 1)
    assert days(root) == [0, 1, 3]
    there = {record.fingerprint for record in read_records(root)}
    assert {step.fingerprint for step in ancestors([target])} <= there, "a driver that runs will read them"


def test_steps_that_no_run_ever_linked_to_stay_a_day(root):
    assert ended("run", WALKS, "--local", "--root", root) == 0
    [run] = read_runs(root)
    run.path(root).unlink()
    collect(root, "--keep-nights", 1)
    assert len(read_records(root)) == 3
    for path in root.glob("*-*/step.json"):
        fields = json.loads(path.read_text()) | {"started": time.time() - 2 * 86400}
        fields.pop("seal")
        path.write_text(json.dumps(fields))
    collect(root, "--keep-nights", 1)
    assert not read_records(root)


def test_traces_of_a_night_that_was_killed_go_when_they_are_old(root):
    night(root, 0)
    trace = root / ".building" / f"member-{'0' * 16}"
    trace.mkdir(parents=True)
    collect(root, "--keep-nights", 1)
    assert trace.is_dir()
    os.utime(trace, (time.time() - 2 * 86400,) * 2)
    collect(root, "--keep-nights", 1)
    assert not trace.exists()


def test_nothing_is_removed_while_a_record_of_a_run_cannot_be_read(root, capsys):
    night(root, 0)
    night(root, 1)
    [first, _] = read_runs(root)
    first.path(root).write_text("{")
    before = sorted(root.rglob("*"))
    assert ended("gc", "--root", root, "--keep-nights", 1) == 2
    assert str(first.path(root)) in capsys.readouterr().err and sorted(root.rglob("*")) == before


@pytest.mark.parametrize("nights, every", [(9, 3), pytest.param(100, 5, marks=pytest.mark.proof)])
def test_a_root_with_a_night_every_day_does_not_grow(root, nights, every):
    sizes = []
    for day in range(nights):
        night(root, day)
        if day % every == every - 1:
            collect(root, "--keep-nights", 3)
            sizes.append(size_of(root))
    assert days(root) == list(range(nights - 3, nights))
    assert max(sizes) <= 1.1 * sizes[0], sizes
    whole(root)
