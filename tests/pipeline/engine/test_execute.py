"""Laws of building a graph: the same numbers anywhere, nothing twice, nothing half, nothing lost to a neighbour."""

import errno
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from amalgam.pipeline.engine.build import build
from amalgam.pipeline.engine.execute import Local, Ray, Run, StepsFailed, run
from amalgam.pipeline.engine.place import Place
from amalgam.pipeline.engine.step import Resources, Step, ancestors, with_resources
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import finished, read_curves
from tests.pipeline.example import Walk, total_step, walk_step, walks


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def runner(request) -> Local | Ray:
    return Local() if request.param == "local" else request.getfixturevalue("ray_here")


def digests(outcome: Run) -> dict[str, dict[str, str]]:
    """SHA-256 of every file of every step, curves apart: they carry the time."""
    return {
        key: {name: facts.sha256 for name, facts in record.files.items() if name != "metrics.json"}
        for key, record in outcome.records.items()
    }


def folders(root: Path) -> set[str]:
    """What lies under a root, traces of unfinished steps included."""
    return {path.name for path in [*root.glob("[!.]*"), *root.glob(".building/*")]}


@pytest.mark.slow
def test_local_and_ray_give_the_same_bytes(tmp_path, ray_here):
    local, distributed = (
        run([walks(seeds=(0, 1, 2))], tmp_path / name, runner)
        for name, runner in (("local", Local()), ("ray", ray_here))
    )
    assert digests(local) == digests(distributed)
    target = local.targets[0].fingerprint
    assert local.records[target].metrics == distributed.records[target].metrics


def test_a_second_run_builds_nothing(tmp_path, runner):
    first = run([walks()], tmp_path, runner)
    again = run([walks()], tmp_path, runner)
    assert (first.cached, again.built) == ((), ())
    assert again.records == first.records
    assert folders(tmp_path) == {step.key for step in ancestors([walks()])}


def test_a_finished_target_needs_no_ancestors(tmp_path):
    target = walks()
    run([target], tmp_path, Local())
    for walk in target.parents:
        for file in walk.path(tmp_path).iterdir():
            file.unlink()
        walk.path(tmp_path).rmdir()
    assert run([target], tmp_path, Local()).built == ()


def test_a_wider_graph_builds_only_what_is_new(tmp_path):
    run([walks(seeds=(0, 1))], tmp_path, Local())
    wider = walks(seeds=(0, 1, 2))
    assert run([wider], tmp_path, Local()).built == (list(wider.parents)[2].fingerprint, wider.fingerprint)


@pytest.mark.slow
def test_a_killed_worker_goes_on_where_it_was(tmp_path, ray_here):
    step = walk_step(Walk(seed=5, length=6, dies_at=3))
    undisturbed = walk_step(Walk(seed=5, length=6))
    outcome = run([step, undisturbed], tmp_path, ray_here)
    assert digests(outcome)[step.fingerprint] == digests(outcome)[undisturbed.fingerprint]
    assert [point.step for point in read_curves(step.path(tmp_path))] == list(range(6))


def test_a_failing_file_system_is_tried_again(tmp_path, runner):
    step = walk_step(Walk(seed=5, fails_at=1))
    assert run([step], tmp_path, runner).built == (step.fingerprint,)
    assert [point.step for point in read_curves(step.path(tmp_path))] == list(range(4))


def test_retries_end(tmp_path):
    [step] = with_resources([walk_step(Walk(fails_at=1))], lambda each: Resources(max_retries=0))
    with pytest.raises(StepsFailed, match="1 of 1"):
        run([step], tmp_path, Local())


def test_failures_are_gathered_and_cost_only_their_descendants(tmp_path, runner):
    bad = [walk_step(Walk(seed=seed, refuses=True)) for seed in (0, 1)]
    good = walk_step(Walk(seed=2))
    doomed, fine = total_step((bad[0], good, bad[1])), total_step((good,))
    events: dict[str, str] = {}
    with pytest.raises(StepsFailed) as failed:
        run([doomed, fine], tmp_path, runner, lambda event: events.update({event.step.key: event.kind}))
    assert events == {
        **{step.key: "failed" for step in bad},
        doomed.key: "skipped",
        good.key: "built",
        fine.key: "built",
    }
    assert sorted(map(str, failed.value.exceptions)) == [f"walks with seed {seed} are refused" for seed in (0, 1)]
    assert folders(tmp_path) == {good.key, fine.key}


def test_two_drivers_build_a_step_once(tmp_path):
    step, place = walk_step(Walk()), Place(tmp_path)
    drivers = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    with drivers, place.storage.alone(step.key):
        awake = [drivers.submit(time.sleep, 1) for _ in range(2)]  # both have imported what a build needs
        wait_for(lambda: all(one.done() for one in awake))
        outcomes = [drivers.submit(build, step, place) for _ in range(2)]
        time.sleep(0.5)  # More than a build takes.
        assert folders(tmp_path) == set() and not any(outcome.done() for outcome in outcomes)
    one, other = [outcome.result() for outcome in outcomes]
    assert one == other, "one time of building"
    assert folders(tmp_path) == {step.key}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def is_open(path: Path, process: int | None) -> bool:
    """Whether a process has the file open."""
    return str(path) in {
        os.readlink(each) for each in Path(f"/proc/{process or 'self'}/fd").iterdir() if each.is_symlink()
    }


@pytest.fixture
def nfs(monkeypatch) -> None:
    """What a file system does with a removed file that is open: NFS keeps it in its folder under another name."""
    unlink = os.unlink

    def unlink_on_nfs(path: str | Path, *, dir_fd: int | None = None) -> None:
        place = (Path.cwd() if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}"))) / path
        if not is_open(place, None):
            unlink(path, dir_fd=dir_fd)
        elif place.name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), place)
        else:
            place.rename(place.with_name(f".nfs{time.monotonic_ns()}"))

    monkeypatch.setattr(os, "unlink", unlink_on_nfs)


def test_a_step_is_built_on_nfs(tmp_path, nfs):
    step = walk_step(Walk())
    first = build(step, Place(tmp_path))
    assert build(step, Place(tmp_path)) == first
    assert folders(tmp_path) == {step.key}


OPEN = []


def leave_open(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    OPEN.append((work.scratch / "file").open("w"))
    return {}


def test_a_file_that_a_step_left_open_on_nfs_stays_behind_and_costs_nothing(tmp_path, nfs):
    step = Step("open", leave_open)
    try:
        first = build(step, Place(tmp_path))
        assert list(Place(tmp_path).building(step).rglob(".nfs*"))
        assert build(step, Place(tmp_path)) == first
    finally:
        OPEN.pop().close()


def test_a_line_that_a_dying_machine_left_torn_costs_no_training(tmp_path, caplog):
    step = walk_step(Walk(seed=5))
    work = Place(tmp_path).building(step)
    (work / "scratch").mkdir(parents=True)
    (work / "scratch" / "walk.json").write_text("[0.5, 0.25]")
    lines = [json.dumps({"step": i, "time": 1.0, "metrics": {"position": 0.5}}) for i in range(3)]
    (work / "curves.jsonl").write_text(f"{lines[0]}\n\0\0\0\n{lines[1]}\n{lines[2][:20]}")
    record = run([step], tmp_path, Local()).records[step.fingerprint]
    assert [point.step for point in read_curves(step.path(tmp_path))] == [0, 1, 2, 3]
    assert json.loads((step.path(tmp_path) / "walk.json").read_text())[:2] == [0.5, 0.25]
    assert set(record.files) == {"walk.json", "metrics.json"}
    assert [note.args[0] for note in caplog.records if note.name.endswith("engine.build")] == [2, 4]


def save_and_return_no_number(config: object, inputs: object, work: Workspace) -> dict[str, list[int]]:
    (work.scratch / "state").write_text("hours of training")
    return {"accuracy": [1]}


def save_and_fill_the_disk(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    (work.scratch / "state").write_text("hours of training")
    return fill_the_disk({}, {}, work)


@pytest.mark.parametrize("function", [save_and_return_no_number, save_and_fill_the_disk])
def test_only_a_refusal_by_the_step_itself_costs_its_saved_state(tmp_path, function):
    step = Step("save", function)
    with pytest.raises(StepsFailed) as failed:
        run([step], tmp_path, Local())
    assert isinstance(failed.value.exceptions[0], ValueError)
    assert [path.name for path in Place(tmp_path).building(step).glob("scratch/*")] == ["state"]
    assert not finished(step.path(tmp_path))


def fill_the_disk(config: Mapping[str, str], inputs: Mapping[str, Path], work: object) -> dict[str, float]:
    with open("/dev/full", "w") as file:
        file.write("one byte too many")
    return {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(StepsFailed) as failed:
        run([Step("fill", fill_the_disk)], tmp_path, Local())
    [error] = failed.value.exceptions
    assert isinstance(error, ValueError)
    assert "No space left on device" in str(error)
    assert folders(tmp_path) == set()


def flood(config: Mapping[str, str], inputs: Mapping[str, Path], work: object) -> dict[str, float]:
    try:
        (work.out / "file").write_bytes(bytes(8 * 2**20))
    except OSError as error:
        raise RuntimeError("a library that hides what happened") from error
    return {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_fills_up_is_named_whatever_the_library_says(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StepsFailed, match="1 of 1") as failed:
            run([Step("flood", flood)], tmp_path / "runs", Local())
        assert "cannot write to" in str(failed.value.exceptions[0])
        assert folders(tmp_path / "runs") == set()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_training_that_diverges_keeps_its_last_state_and_says_where(tmp_path):
    step = walk_step(Walk(diverges=True))
    with pytest.raises(StepsFailed) as failed:
        run([step], tmp_path, Local())
    [error] = failed.value.exceptions
    kept = tmp_path / ".building" / step.key / "scratch"
    assert str(error) == f"the walk went astray; its last good state is kept in {kept}"
    assert len(json.loads((kept / "walk.json").read_text())) == 4
    assert not finished(step.path(tmp_path)) and not (kept.parent / "out").exists()


def test_a_read_only_root_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="/proc/none/runs"):
        run([walks()], Path("/proc/none/runs"), Local())


def test_a_check_refuses_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="got 0"):
        run([walks(length=0)], tmp_path / "runs", Local())
    assert folders(tmp_path / "runs") == set()


@pytest.mark.slow
def test_more_than_this_machine_has_is_refused_with_the_remedy(tmp_path):
    [step] = with_resources([walk_step(Walk())], lambda each: Resources(num_gpus=512))
    with pytest.raises(ValueError, match=r"'walk'.*512 GPUs.*--num-gpus walk="):
        run([step], tmp_path, Ray("local"))


def count_threads(config: Mapping[str, str], inputs: Mapping[str, Path], work: object) -> dict[str, int]:
    import torch  # as steps do: only where the work is

    return {"torch": torch.get_num_threads(), "environment": int(os.environ["OMP_NUM_THREADS"])}


@pytest.mark.parametrize("num_cpus", [0.5, 1, 2])
def test_a_step_has_as_many_threads_as_cpus_anywhere(tmp_path, runner, num_cpus):
    step = Step("count", count_threads, resources=Resources(num_cpus=num_cpus))
    record = run([step], tmp_path, runner).records[step.fingerprint]
    assert set(record.metrics.values()) == {max(1, int(num_cpus))}


def test_a_record_says_what_was_built_and_from_what(tmp_path):
    target = walks(seeds=(0, 1), scale=2.0)
    record = run([target], tmp_path, Local()).records[target.fingerprint]
    assert record.config == {"scale": 2.0}
    assert record.inputs == {"walks": [walk.fingerprint for walk in target.parents]}
    assert finished(target.path(tmp_path))
    assert json.loads((target.path(tmp_path) / "total.json").read_text()) == record.metrics["total"]
