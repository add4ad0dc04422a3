"""A run goes on without what Ray has lost, or the next one does."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from amalgam.pipeline.store.artifact import read_records, verify
from amalgam.pipeline.tracking.run_record import bury_dead, read_runs
from tests.pipeline.engine.ray.test_job_submission import amalgam, running_head

NAPS = f"{Path(__file__).with_name('naps.py')}:naps"


def started(root: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "amalgam", "run", NAPS, "--root", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_one(run: "subprocess.Popen[str]", name: str) -> None:
    """Kill a process of the run, by the beginning of what it was started as."""
    [*alike] = (
        process
        for process in psutil.Process(run.pid).children(recursive=True)
        if any(name in part for part in process.cmdline()[:1])
    )
    alike[0].kill()


@pytest.mark.proof
@pytest.mark.parametrize(("lost", "goes_on"), [("ray::nap", True), ("raylet", True), ("gcs_server", False)])
def test_a_run_or_the_next_one_goes_on_when_a_process_of_ray_is_lost(tmp_path, lost, goes_on):
    run, ends = started(tmp_path), time.monotonic() + 300
    while not list(tmp_path.glob("nap-*/step.json")):
        assert run.poll() is None and time.monotonic() < ends
        time.sleep(0.1)
    done = {record.key: record.started for record in read_records(tmp_path)}
    kill_one(run, lost)
    said = run.communicate(timeout=300)[0]
    assert (run.returncode == 0) == goes_on, said
    again = started(tmp_path)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and ("all 7 steps were built already" in said) == goes_on, said
    records = {record.key: record for record in read_records(tmp_path)}
    assert len(records) == 7 and verify(tmp_path) == (7, [])
    assert {key: records[key].started for key in done} == done, "what was finished is not built again"
    assert next(r.metrics["total"] for r in records.values() if r.name == "collect") == 15
    assert not bury_dead(tmp_path) and not [record for record in read_runs(tmp_path) if record.status == "RUNNING"]


@pytest.mark.proof
def test_a_job_whose_head_is_lost_is_continued_by_the_same_submission_to_another_head(tmp_path):
    """GCS, raylet, dashboard and the job itself are gone at once, as with a machine that loses its power."""
    arguments = ("submit", "tests/pipeline/engine/ray/naps.py:naps", "--root", tmp_path, "--submission-id", "night-1")
    with running_head() as first, ThreadPoolExecutor(1) as pool:
        submitted, ends = pool.submit(amalgam, first, *arguments), time.monotonic() + 300
        while not list(tmp_path.glob("nap-*/step.json")):
            assert not submitted.done(), submitted.result().stdout + submitted.result().stderr
            assert time.monotonic() < ends
            time.sleep(0.1)
        lost = psutil.Process(first.process.pid).children(recursive=True)
        names = " ".join(part for process in lost for part in process.cmdline())
        assert "gcs_server" in names and "raylet" in names
        for process in [psutil.Process(first.process.pid), *lost]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        ended = submitted.result(timeout=300)
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("error: "), ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr and first.address in ended.stderr
    done = {record.key: record.started for record in read_records(tmp_path)}
    assert done
    with running_head() as second:
        again = amalgam(second, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    records = {record.key: record for record in read_records(tmp_path)}
    assert len(records) == 7 and verify(tmp_path) == (7, [])
    assert {key: records[key].started for key in done} == done, "what was finished is not built again"
    assert not bury_dead(tmp_path)
    assert sorted(record.status for record in read_runs(tmp_path))[0] == "FINISHED"
    assert "RUNNING" not in {record.status for record in read_runs(tmp_path)}
