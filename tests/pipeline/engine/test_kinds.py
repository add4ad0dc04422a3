"""A kind of step is declared in one place: every graph, a user's own too, takes its version and checks from there."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.steps.fusion.activations import ACTIVATIONS, ActivationsConfig
from amalgam.pipeline.steps.fusion.members import MEMBER
from amalgam.pipeline.store.artifact import read_records

GUIDE = Path(__file__).parents[3] / "docs" / "extending" / "dataset_or_model.md"


def of_kind(name: str) -> list:
    return [step for step in ancestors([EXPERIMENTS["digits_partial_fusion"]()]) if step.name == name]


def test_a_users_own_graph_finds_what_the_experiment_staged():
    theirs = of_kind("activations")[0]
    [member] = theirs.parents
    own = ACTIVATIONS(theirs.config, member=member)
    assert own.fingerprint == theirs.fingerprint and own.version == theirs.version == ACTIVATIONS.version > 1
    assert MEMBER(member.config).fingerprint == member.fingerprint


def test_a_users_kind_is_planned_checked_and_run_from_the_one_place_that_the_guide_shows(tmp_path, capsys):
    [own] = [code for code in re.findall("```python\n(.*?)```", GUIDE.read_text(), re.S) if "Kind(" in code]
    file = tmp_path / "mine.py"
    file.write_text(own.replace("version=1", "version=7"))
    place = ["--root", str(tmp_path / "runs"), "--local"]
    for act in ("plan", "run"):
        with pytest.raises(SystemExit) as refused:
            main([act, f"{file}:powers", "--exponent", "-1", *place])
        assert refused.value.code == 2 and "-1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["run", f"{file}:powers", "--exponent", "5", *place])
    assert done.value.code == 0
    [record] = read_records(tmp_path / "runs")
    assert (record.name, record.version, record.metrics) == ("power", 7, {"value": 32})


def test_a_raised_version_is_another_step():
    class Nothing(Config):
        pass

    first, second = (Kind("same", print, Nothing, version=version)(Nothing()) for version in (1, 2))
    assert first.fingerprint != second.fingerprint


def test_a_config_of_another_kind_is_refused():
    class Other(BaseModel):
        pass

    with pytest.raises(ValueError, match="Other"):
        ACTIVATIONS(Other())
    assert ACTIVATIONS.config is ActivationsConfig
