"""Folders are whole or absent, records can be trusted, and unwritable places are named in one sentence."""

import hashlib
import math
from pathlib import Path

import pytest

from amalgam.pipeline.cli.plan import forecast
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import (
    check_writable,
    file_facts,
    new_folder,
    read_curves,
    read_record,
    written_whole,
)
from tests.pipeline.example import walks


def test_a_new_folder_is_there_only_if_its_block_succeeds(tmp_path):
    with new_folder(tmp_path / "whole") as folder:
        (folder / "file").write_text("content")
        assert not (tmp_path / "whole").exists()
    with pytest.raises(KeyError), new_folder(tmp_path / "half") as folder:
        (folder / "file").write_text("content")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_new_folder_never_replaces_an_old_one(tmp_path):
    with pytest.raises(ValueError, match="exists already"), new_folder(tmp_path):
        pass


def test_a_file_is_replaced_only_if_its_block_succeeds(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), written_whole(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    with written_whole(path) as one, written_whole(path) as other:
        assert one != other, "two writers in one process, as on two machines with one process id, share no file"
        one.write_text("first")
        other.write_text("second")
        assert path.read_text() == "old"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_file_facts_are_those_of_the_bytes(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"content")
    [(name, facts)] = file_facts(tmp_path).items()
    assert (name, facts.bytes, facts.sha256) == ("deep/file", 7, hashlib.sha256(b"content").hexdigest())


def test_a_damaged_record_is_named_with_its_remedy(tmp_path):
    step = walks()
    run([step], tmp_path, Local())
    record = step.path(tmp_path) / "step.json"
    record.write_text(record.read_text()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        read_record(step.path(tmp_path))


def not_finite(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    for step, value in enumerate((1.0, math.nan, -math.inf)):
        work.log({"loss": value}, step)
    return {"nll": math.nan, "largest": math.inf, "smallest": -math.inf, "rows": 3, "accuracy": 0.5}


def test_numbers_that_are_not_finite_are_read_as_written(tmp_path):
    step = Step("astray", not_finite)
    run([step], tmp_path, Local())
    metrics = read_record(step.path(tmp_path)).metrics
    assert repr(metrics) == repr(not_finite({}, {}, Workspace(*[tmp_path] * 3, "cpu", tmp_path / "curves")))
    assert repr([point.value for point in read_curves(step.path(tmp_path))]) == "[1.0, nan, -inf]"
    assert [line.state for line in forecast([Step("astray", not_finite, {"seed": 1})], tmp_path)] == ["to run"]


@pytest.mark.parametrize("place", ["/proc/none/runs", "/dev/null/runs"])
def test_a_place_that_cannot_be_written_is_one_sentence(place):
    with pytest.raises(ValueError, match=f"{place}"):
        check_writable(Path(place))
