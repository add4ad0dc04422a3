"""Where results may lie."""

from pathlib import Path

import pytest

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.store.storage import root_path

WALKS = f"{Path(__file__).parents[2] / 'example.py'}:walks"


@pytest.mark.parametrize(
    "command", ["run tests/pipeline/example.py:walks --local", "plan digits_partial_fusion", "show"]
)
def test_an_address_that_holds_no_results_is_refused_and_makes_no_folder(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*command.replace("tests/pipeline/example.py:walks", WALKS).split(), "--root", "ftp://me:secret@host/x"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "ftp://" in said and "secret" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_root_is_taken_from_the_environment_and_may_be_a_file_address(tmp_path, monkeypatch, capsys):
    for root in (tmp_path / "a b", (tmp_path / "a b").as_uri()):
        monkeypatch.setenv("AMALGAM_ROOT", str(root))
        with pytest.raises(SystemExit) as ended:
            main(["run", WALKS, "--local"])
        assert not ended.value.code
    assert "all 3 steps were built already" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a b"] and root_path(root) == tmp_path / "a b"
