"""What a team runs into with nights, schedules and stores: one sentence each, and the rest goes on."""

import json
import socket
from pathlib import Path

import pytest

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.store.artifact import CURVES, RECORD, read_record, sealed
from amalgam.pipeline.tracking.nights.record import read_nights
from amalgam.pipeline.tracking.run_record import RunRecord, damaged_runs, read_runs
from amalgam.pipeline.tracking.store import Store, store_of
from amalgam.pipeline.tracking.sync import sync
from tests.pipeline.example import walks

SHOP = """
from pydantic import BaseModel
from amalgam.pipeline.engine.step import Step

class Config(BaseModel):
    seed: int

def measure(config, inputs, work):
    return {"accuracy/small": 0.9}

def shop(first_seed: int = 0) -> Step:
    return Step("shop", measure, Config(seed=first_seed))
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *command: object, code: int = 2) -> str:
    """The one sentence that a command says before it ends."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in command])
    said = capsys.readouterr().err
    assert ended.value.code == code and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("name", ["", "a/../../b", "..", ".hidden", "a\\b", "a\nb"])
def test_a_series_of_nights_has_the_name_of_a_folder(shop, capsys, name):
    refused(capsys, "night", "shop.py:shop", "--local", "--name", name)
    assert [path.name for path in shop.iterdir()] == ["shop.py"]


@pytest.mark.parametrize("flags", [("--date", "1990-01-01"), ("--seed", "-1"), ("--seed", "9" * 20)])
def test_seeds_are_numbers_that_generators_take(shop, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        main(["night", "shop.py:shop", "--local", *flags])
    assert ended.value.code == 2 and not read_runs(shop / "runs")


def test_a_baseline_that_a_shell_left_empty_is_no_night_without_one(shop, capsys):
    refused(capsys, "night", "shop.py:shop", "--local", "--baseline", "")


@pytest.mark.parametrize("flags", [("--cron", "0 2 30 2 *"), ("--cron", "0 2 * * *", "--grace", "inf")])
def test_a_schedule_that_is_never_due_or_never_too_late_is_not_kept(shop, capsys, flags):
    refused(capsys, "schedule", "add", *flags, "nightly", "--", "verify")
    assert not list(shop.glob("runs/.schedules/*.json"))


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://", "http://[::1"])
def test_an_mlflow_that_keeps_nothing_or_has_no_address_is_refused(shop, capsys, uri):
    refused(capsys, "run", "shop.py:shop", "--local", "--tracking-uri", uri)
    assert not (shop / "runs").exists()


def test_odd_roots_are_one_sentence(shop, capsys):
    (shop / "loop").symlink_to(shop / "loop")
    for name in ("x" * 300, "loop"):
        assert name[:50] in refused(capsys, "run", "shop.py:shop", "--local", "--root", shop / name)
    for content in (b"\xff\xfe", b"nonsense", b""):
        (shop / "marked").mkdir(exist_ok=True)
        (shop / "marked" / ".storage").write_bytes(content)
        assert ".storage" in refused(capsys, "show", "--root", shop / "marked")


@pytest.mark.parametrize("in_the_way", [".locks", ".locks/starting/x"])
def test_what_is_in_the_way_of_locks_is_named(shop, capsys, in_the_way):
    place = shop / "runs" / in_the_way
    place.parent.mkdir(parents=True)
    place.write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["run", "shop.py:shop", "--local"])
    assert ended.value.code == 2 and ".locks" in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_that_is_away_and_a_lease_of_no_time_are_one_sentence(shop, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AMALGAM_CACHE", str(shop / "cache"))
    address = f"s3://bucket/runs?endpoint_override=127.0.0.1:{port}&scheme=http"
    assert "bucket" in refused(capsys, "show", "--root", address, code=1)
    monkeypatch.setenv("AMALGAM_LEASE_SECONDS", "soon")
    with pytest.raises(ValueError, match=r"AMALGAM_LEASE_SECONDS.*soon"):
        from amalgam.pipeline.store.storage.lease import lease_seconds

        lease_seconds()


def test_records_of_impossible_times_are_damaged_and_block_nothing(tmp_path):
    target = walks()
    run([target], tmp_path, Local())
    good = RunRecord.begun("walks", {}, [target])
    good.write(tmp_path)
    for name, started in (("past", -5e9), ("future", 1e300)):
        (tmp_path / ".runs" / f"{name}.json").write_text(json.dumps({"experiment": "x", "started": started}))
    assert [one.key for one in read_runs(tmp_path)] == [good.key] and len(damaged_runs(tmp_path)) == 2
    record = read_record(target.path(tmp_path))
    for wrong in ({"started": 1e300}, {"seconds": -3.0}):
        (target.path(tmp_path) / RECORD).write_text(sealed(record.model_copy(update=wrong)))
        with pytest.raises(ValueError, match="damaged"):
            read_record(target.path(tmp_path))


@pytest.mark.slow
def test_a_night_that_measured_nothing_is_left_out(shop, capsys):
    with pytest.raises(SystemExit):
        main(["night", "shop.py:shop", "--local", "--date", "2026-11-20"])
    [night] = read_nights(shop / "runs", "shop")
    record = night.folder(shop / "runs") / "night.json"
    record.write_text(json.dumps(json.loads(night.model_dump_json()) | {"metrics": {}}))
    with pytest.raises(SystemExit) as ended:
        main(["gc", "--keep-nights", "1", "--keep-best", "--dry-run"])
    assert not ended.value.code and f"{record.relative_to(shop)} cannot be read" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_whose_curves_are_damaged_keeps_no_other_from_mlflow(tmp_path):
    for scale in (1, 2):
        target = walks(scale=scale)
        outcome = run([target], tmp_path, Local())
        begun = RunRecord.begun("walks", {}, [target])
        done = begun.model_copy(update={"built": tuple(outcome.records)}).ended()
        done.write(tmp_path)
        if scale == 1:
            (target.path(tmp_path) / CURVES).write_text("[{")
    assert [one.is_unreadable for one in sync(tmp_path, store_of(tmp_path))] == [True, False]


def test_an_address_with_a_path_and_no_host_is_no_server():
    with pytest.raises(ValueError, match="http:///x"):
        Store("http:///x").check()
