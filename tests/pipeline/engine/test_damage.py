"""Whatever happens to the files under a root, nothing damaged is used, and nothing damaged stands in the way."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.execute import Event, Local, Ray, StepsFailed, run
from amalgam.pipeline.engine.place import missing
from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import damage_of, finished, read_record, survey, verify
from amalgam.pipeline.tracking.run_record import RunRecord, damaged_runs, read_runs
from tests.pipeline.engine.power import Power, PowerCut, digest, files
from tests.pipeline.example import Walk, total_step, walk_step, walks

pytestmark = pytest.mark.slow


def contents(root: Path) -> dict[str, str]:
    """Digests of what the steps under a root wrote; records hold times."""
    artifacts = [path for path in files(root) if path.relative_to(root).parts[0][0] != "."]
    return {
        str(path.relative_to(root)): digest(path)
        for path in artifacts
        if path.name not in ("step.json", "metrics.json")
    }


def told(root: Path, target: Step) -> list[tuple[str, str]]:
    """What a run says of the steps of the target."""
    events = list[Event]()
    run([target], root, Local(), events.append)
    return [(event.kind, event.step.key) for event in events]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    run([walks()], root, Local())
    return root


@pytest.fixture
def root(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an empty record": lambda folder: (folder / "step.json").write_bytes(b""),
    "no record": lambda folder: (folder / "step.json").unlink(),
    "a record cut short": lambda folder: (folder / "step.json").write_bytes((folder / "step.json").read_bytes()[:90]),
    "a record of zeros": lambda folder: (folder / "step.json").write_bytes(bytes(500)),
    "a record that is a list": lambda folder: (folder / "step.json").write_text("[]"),
    "a record that is a folder": lambda folder: ((folder / "step.json").unlink(), (folder / "step.json").mkdir()),
    "another result": lambda folder: edit(folder, "metrics"),
    "no seal": lambda folder: (folder / "step.json").write_text(
        (folder / "step.json").read_text().replace('"seal"', '"Seal"')
    ),
    "an empty file": lambda folder: result(folder).write_bytes(b""),
    "no file": lambda folder: result(folder).unlink(),
    "a flipped bit": lambda folder: flip(result(folder), 77),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def result(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.name in ("walk.json", "total.json"))


def edit(folder: Path, field: str) -> None:
    record = json.loads((folder / "step.json").read_text())
    record[field] = {name: value + 1 for name, value in record[field].items()}
    (folder / "step.json").write_text(json.dumps(record))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("where", ["target", "input"])
def test_what_is_damaged_is_set_aside_and_built_again(root, whole, damage, where):
    target = walks()
    spoiled = target if where == "target" else next(target.parents)
    damage(spoiled.path(root))
    if where == "input":
        shutil.rmtree(target.path(root))
    assert len(verify(root)[1]) == 1
    kinds = told(root, target)
    assert ("damaged", spoiled.key) in kinds and ("built", spoiled.key) in kinds
    assert contents(root) == contents(whole) and verify(root) == (3, [])
    assert [path.name.rpartition("-")[0] for path in (root / ".damaged").iterdir()] == [spoiled.key]


def test_an_input_of_a_finished_target_is_not_looked_at(root):
    target = walks()
    shutil.rmtree(next(target.parents).path(root))
    assert ("cached", target.key) in told(root, target)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 10**9))
def test_no_flipped_bit_is_used(tmp_path_factory, whole, place, bit):
    """A record keeps its meaning under some flips, such as that of 1e-05 to 1E-05: then nothing was damaged."""
    root = tmp_path_factory.mktemp("flipped")
    shutil.copytree(whole, root, dirs_exist_ok=True)
    target = walks()
    shutil.rmtree(target.path(root))
    candidates = [path for path in files(root) if path.stat().st_size]
    spoiled = candidates[place % len(candidates)]
    before = {step.key: finished(step.path(root)) for step in target.parents}
    flip(spoiled, bit)
    harmless = spoiled.name == "step.json" and finished(spoiled.parent) == before[spoiled.parent.name]
    kinds = {kind for kind, _ in told(root, target)}
    assert harmless or spoiled.parent.name.startswith(".") or "damaged" in kinds
    assert contents(root) == contents(whole)


def test_damage_that_workers_meet_is_mended_in_the_same_run(root, whole):
    """Both inputs are whole when the run begins and are spoiled before they are read."""
    target = walks()
    shutil.rmtree(target.path(root))
    spoiled, kinds = list(target.parents), list[str]()

    def spoil(event: Event) -> None:
        kinds.append(event.kind)
        if event.kind == "cached" and spoiled:
            flip(result(spoiled.pop().path(root)), 5)

    outcome = run([target], root, Local(), spoil)
    assert kinds == ["cached", "cached", "damaged", "damaged", "built", "built", "built"]
    assert len(outcome.built) == 3 and not outcome.cached
    assert contents(root) == contents(whole)


def test_damage_that_ray_workers_meet_is_mended_in_the_same_run(root, whole):
    target = walks()
    shutil.rmtree(target.path(root))
    flip(result(next(target.parents).path(root)), 5)
    events = list[Event]()
    run([target], root, Ray("local"), events.append)
    assert [event.kind for event in events if event.step == next(target.parents)][-2:] == ["damaged", "built"]
    assert contents(root) == contents(whole)


def test_a_failure_beside_damage_is_reported_once(root):
    good, bad = walk_step(Walk(seed=0)), walk_step(Walk(seed=9, refuses=True))
    waits, other = total_step((good, bad)), total_step((good,), 2.0)
    events = list[Event]()

    def hear(event: Event) -> None:
        events.append(event)
        if event.kind == "cached":
            flip(result(good.path(root)), 3)

    with pytest.raises(StepsFailed, match="1 of"):
        run([waits, other], root, Local(), hear)
    kinds = [(event.kind, event.step.key) for event in events]
    assert kinds.count(("failed", bad.key)) == kinds.count(("skipped", waits.key)) == 1
    assert kinds[-2:] == [("built", good.key), ("built", other.key)]


def test_listings_count_what_is_damaged_and_show_the_rest(root):
    spoiled = next(walks().parents)
    (spoiled.path(root) / "step.json").write_bytes(b"")
    found = survey(root)
    assert len(found.records) == 2 and [damage.path.name for damage in found.damaged] == [spoiled.key]


def test_a_damaged_record_of_a_run_hides_no_other(tmp_path):
    records = [RunRecord.begun("one", {}, [walks()]), RunRecord.begun("other", {}, [walks()])]
    paths = [record.write(tmp_path) for record in records]
    flip(paths[0], 8 * paths[0].read_text().index("one") + 1)
    assert read_runs(tmp_path) == records[1:] and damaged_runs(tmp_path) == paths[:1]


@pytest.mark.parametrize("moment", range(0, 70, 3))
def test_a_power_cut_at_any_moment_costs_no_more_than_unfinished_steps(tmp_path, whole, moment):
    target, ended = walks(), list[Step]()
    with pytest.MonkeyPatch.context() as patch:
        power = Power(patch, calls_left=moment)
        with suppress(PowerCut):
            run([target], tmp_path, Local(), lambda event: ended.append(event.step))
        power.lose(tmp_path)
    for step in ended:
        assert damage_of(step.path(tmp_path)) is None and power.kept(step.path(tmp_path))
    run([target], tmp_path, Local())
    assert contents(tmp_path) == contents(whole) and verify(tmp_path) == (3, [])
    assert missing([target], tmp_path) == []


def test_the_power_cuts_of_these_tests_lose_what_is_not_flushed(tmp_path, monkeypatch):
    power = Power(monkeypatch)
    run([walks()], tmp_path, Local())
    (tmp_path / "careless").write_text("written and not flushed")
    assert power.lose(tmp_path) and (tmp_path / "careless").read_text() == ""
    assert verify(tmp_path) == (3, [])


def test_durations_do_not_follow_the_clock_on_the_wall(tmp_path, monkeypatch):
    jumps = iter(range(10**6))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(jumps))
    step = walk_step(Walk())
    outcome = run([step], tmp_path, Local())
    assert 0 <= read_record(step.path(tmp_path)).seconds < 60 and 0 <= outcome.seconds < 60


def test_verify_lists_all_that_is_damaged_and_says_so_by_its_exit_status(root, capsys):
    def verdict() -> tuple[int | str | None, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", "--root", str(root)])
        return ended.value.code, capsys.readouterr().out.splitlines()

    assert verdict()[0] == 0
    one, other = walks().parents
    flip(result(one.path(root)), 9)
    (other.path(root) / "step.json").unlink()
    path = RunRecord.begun("run", {}, [walks()]).write(root)
    path.write_bytes(b"")
    code, lines = verdict()
    assert code == 1 and len(lines) == 4
    assert {line.partition(":")[0] for line in lines[:-1]} == {
        str(place) for place in (one.path(root), other.path(root), path)
    }


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b""), lambda path: flip(path, 99), lambda path: flip(path, 8 * 700)]
)
def test_a_saved_training_that_is_damaged_starts_anew_and_says_so(tmp_path, damage):
    work = Workspace(tmp_path, tmp_path, None, "cpu", tmp_path / "curves.jsonl")
    saver(work)({"epoch": torch.tensor(3), "weights": torch.arange(50.0)})
    state = resume_state(work)
    assert state is not None and torch.equal(state["weights"], torch.arange(50.0))
    damage(tmp_path / "resume.pt")
    assert resume_state(work) is None
    assert "resume.pt" in (tmp_path / "notes.txt").read_text()
