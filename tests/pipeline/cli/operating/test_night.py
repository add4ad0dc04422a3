"""Nights through the command line: spoiled data is found, dated and said; a baseline is kept; nothing runs twice."""

import json
import re

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.tracking.nights.record import nights_folder, read_aliases, read_nights

EXPERIMENT = """
import random
from pathlib import Path
from pydantic import BaseModel
from amalgam.pipeline.engine.step import Step

class Config(BaseModel):
    seed: int
    data: str

def measure(config, inputs, work):
    level = float(Path(config.data).read_text())
    return {"accuracy/small": random.Random(config.seed).gauss(level, 0.002), "data_fingerprint": str(level)}

def shop(data: str, first_seed: int = 0) -> Step:
    return Step("shop", measure, Config(seed=first_seed, data=data))

def unseeded(data: str) -> Step:
    return Step("shop", measure, Config(seed=0, data=data))
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.py").write_text(EXPERIMENT)
    (tmp_path / "level.txt").write_text("0.95")
    return tmp_path


def night(shop, *flags, function="shop"):
    command = ["night", f"{shop / 'shop.py'}:{function}", "--data", str(shop / "level.txt"), "--local"]
    return ended([*command, "--root", str(shop / "runs"), *flags])


def ended(command):
    with pytest.raises(SystemExit) as left:
        main(command)
    return left.value.code or 0


def found(shop):
    return read_nights(shop / "runs", "shop")


@pytest.mark.slow
def test_data_that_is_spoiled_in_the_seventh_night_ends_it_with_status_3_and_a_page(shop, capsys):
    tolerance = ("--tolerance", "accuracy=0.5pt")
    for _ in range(6):
        assert night(shop, "--again", *tolerance) == 0
    (shop / "level.txt").write_text("0.68")
    marker = shop / "told.txt"
    capsys.readouterr()
    assert night(shop, "--again", *tolerance, "--on-regression", f"echo $AMALGAM_VERDICT > {marker}") == 3
    said, last = capsys.readouterr().out, found(shop)[-1]
    assert last.verdict == "regression" and "accuracy/small" in said and "0.95 -> 0.68" in said
    assert marker.read_text().strip() == str(last.folder(shop / "runs") / "verdict.html")
    (finding,) = last.findings
    assert finding["fall"] == pytest.approx(0.27, abs=0.02) and finding["since"] == 6
    assert len({each.first_seed for each in found(shop)}) == 7
    client = MlflowClient(f"sqlite:///{shop / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.verdict != ''")
    assert sorted(run.data.metrics["verdict"] for run in runs) == [0.0, *[1.0] * 6]


@pytest.mark.slow
def test_a_night_is_not_compared_with_later_ones_such_as_of_a_clock_that_was_wrong(shop, capsys):
    assert night(shop, "--date", "2026-11-20") == 0 and night(shop, "--date", "2099-01-01") == 0
    assert night(shop, "--date", "2026-11-21") == 0
    assert "1 nights of later days" in capsys.readouterr().out
    first, second, _ = found(shop)
    assert second.findings[0]["level"] == first.metrics["accuracy/small"]


@pytest.mark.slow
def test_a_day_has_one_night_unless_another_is_asked_for(shop):
    assert night(shop) == 0 and night(shop) == 0 and len(found(shop)) == 1
    assert night(shop, "--again") == 0 and len(found(shop)) == 2


@pytest.mark.slow
def test_a_baseline_by_alias_is_kept_and_promoted_only_when_better(shop, capsys):
    assert night(shop, "--tolerance", "accuracy=1pt") == 0
    first = found(shop)[0].run
    (shop / "level.txt").write_text("0.99")
    better = ("--again", "--baseline", first, "--tolerance", "accuracy=1pt", "--promote-if-better", "champion")
    assert night(shop, *better) == 0
    assert read_aliases(shop / "runs") == {"champion": found(shop)[1].run}
    (shop / "level.txt").write_text("0.95")
    assert night(shop, "--again", "--baseline", "champion", "--tolerance", "accuracy=1pt") == 3
    assert read_aliases(shop / "runs") == {"champion": found(shop)[1].run}
    capsys.readouterr()
    assert ended(["compare", first, "champion", "--root", str(shop / "runs")]) == 0
    assert "accuracy/small" in capsys.readouterr().out


@pytest.mark.slow
def test_a_night_says_that_mlflow_is_away_and_that_its_command_failed(shop, capsys):
    assert night(shop) == 0
    baseline = found(shop)[0].run
    (shop / "level.txt").write_text("0.68")
    flags = ("--baseline", baseline, "--tolerance", "accuracy=1pt", "--on-regression", "exit 7")
    assert night(shop, "--again", *flags, "--tracking-uri", "http://127.0.0.1:9") == 3
    out = capsys.readouterr().out
    assert "http://127.0.0.1:9 does not answer" in out and "exit status 7" in out


def test_damaged_aliases_are_named_by_their_file(shop):
    aliases = nights_folder(shop / "runs", "shop").with_name("aliases.json")
    aliases.parent.mkdir(parents=True)
    aliases.write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(aliases))):
        read_aliases(shop / "runs")


def test_a_night_that_still_runs_is_not_joined_by_another(shop):
    folder = nights_folder(shop / "runs", "shop")
    folder.parent.mkdir(parents=True)
    with FileLock(folder.with_suffix(".lock")):
        assert night(shop) == 0 and not found(shop)


@pytest.mark.slow
def test_a_damaged_night_is_one_fewer_to_compare_with(shop):
    assert night(shop) == 0
    (found(shop)[0].folder(shop / "runs") / "night.json").write_text(json.dumps({"name": "shop"}))
    assert night(shop, "--again") == 0 and len(found(shop)) == 1


@pytest.mark.slow
def test_a_night_never_takes_the_place_of_one_that_can_be_read(shop, capsys):
    assert night(shop) == 0 and night(shop, "--again") == 0
    first, second = found(shop)
    damaged = first.folder(shop / "runs") / "night.json"
    damaged.write_text("{}")
    capsys.readouterr()
    assert night(shop, "--again") == 0
    assert str(damaged) in capsys.readouterr().out.replace("\n", "")
    assert [each.number for each in found(shop)] == [1, 2] and found(shop)[0] == second


@pytest.mark.parametrize(
    "flags, value",
    [
        (("--tolerance", "accuracy"), "'accuracy'"),
        (("--tolerance", "speed=1%"), "speed"),
        (("--baseline", "nobody"), "'nobody'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(shop, flags, value, capsys):
    assert night(shop, *flags) == 2
    assert value in capsys.readouterr().err and not found(shop)


def test_an_experiment_without_seeds_has_no_nights(shop, capsys):
    assert night(shop, function="unseeded") == 2 and "first_seed" in capsys.readouterr().err


def test_a_flag_of_the_night_comes_before_one_of_the_experiment(capsys):
    assert ended(["night", "clip_styles", "--help"]) == 0
    assert "METRIC=FALL" in capsys.readouterr().out
