"""A driver of another machine that touches its record no more counts as dead, and nobody else's does."""

import os
import time

import pytest

from amalgam.pipeline.store.storage.process import Process
from amalgam.pipeline.tracking import run_log
from amalgam.pipeline.tracking.run_log import beating
from amalgam.pipeline.tracking.run_record import SILENCE, RunRecord, bury_dead, read_runs
from tests.pipeline.example import walks


def going(root, age, **changes):
    """A run whose record was touched so many seconds ago, by a driver of another machine."""
    driver = Process.this().model_copy(update={"host": "elsewhere"})
    run = RunRecord.begun("walks", {}, [walks()]).model_copy(update={"driver": driver} | changes)
    run.write(root)
    os.utime(run.path(root), (time.time() - age,) * 2)
    return run


@pytest.mark.parametrize(
    ("age", "changes", "statuses"),
    [
        (2 * SILENCE, {}, ["KILLED"]),
        (SILENCE / 2, {}, ["RUNNING"]),
        (2 * SILENCE, {"beats": False}, ["RUNNING"]),
        (2 * SILENCE, {"driver": Process.this()}, ["RUNNING"]),
        (2 * SILENCE, {"seconds": 1.0}, ["FINISHED"]),
    ],
)
def test_only_silent_drivers_of_other_machines_are_buried(tmp_path, age, changes, statuses):
    run = going(tmp_path, age, **changes)
    buried = bury_dead(tmp_path)
    assert [one.status for one in read_runs(tmp_path)] == statuses
    assert len(buried) == statuses.count("KILLED") and all(one.seconds < run.started for one in buried)
    assert not list((tmp_path / ".runs").glob(".now-*"))


def test_a_run_that_goes_on_touches_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "BEAT", 0.05)
    run = going(tmp_path, 2 * SILENCE)
    with beating(run, tmp_path):
        ends = time.monotonic() + 60
        while time.time() - run.path(tmp_path).stat().st_mtime > SILENCE:
            assert time.monotonic() < ends
            time.sleep(0.05)
    assert bury_dead(tmp_path) == []


def test_a_record_that_cannot_be_touched_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_log, "BEAT", 0.05)
    run = going(tmp_path, 0)
    run.path(tmp_path).unlink()
    with beating(run, tmp_path):
        ends = time.monotonic() + 60
        while not caplog.records:
            assert time.monotonic() < ends
            time.sleep(0.05)
    assert {note.args[0] for note in caplog.records} == {run.key}
