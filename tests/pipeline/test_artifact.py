"""Folders are whole or absent, records can be trusted, and unwritable places are named in one sentence."""

import hashlib
from pathlib import Path

import pytest

from pipeline.artifact import check_writable, file_facts, new_folder, read_record
from pipeline.execute import Local, run
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
    with pytest.raises(ValueError, match="damaged; delete the folder"):
        read_record(step.path(tmp_path))


@pytest.mark.parametrize("place", ["/proc/none/runs", "/dev/null/runs"])
def test_a_place_that_cannot_be_written_is_one_sentence(place):
    with pytest.raises(ValueError, match=f"cannot write to {place}: .*choose another folder"):
        check_writable(Path(place))
