"""A matching method in a user's own file goes through the whole experiment, under its own name in the report."""

import pytest

from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments.fusion.partial_fusion import partial_fusion
from amalgam.pipeline.reports.builder import read_rows
from amalgam.tasks.fusion import PartialOT

SOURCE = '''
from dataclasses import replace

from amalgam import Method
from amalgam.tasks.fusion.matching import identity


class FirstHalf(Method):
    """Match the first part of every group as it stands."""

    part: int = 2

    def match(self, members):
        matching = identity(members.axes, members.states)
        half = {group: size // self.part for group, size in matching.universe.num_matched.items()}
        return replace(matching, universe=replace(matching.universe, num_matched=half))
'''
TINY = {
    "data": "digits",
    "seeds": 1,
    "members": 2,
    "epochs": 1,
    "widths": (12, 8),
    "probe_rows": 50,
    "rivals": ("none",),
}


@pytest.fixture
def method(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    return f"{tmp_path / 'mine.py'}:FirstHalf"


@pytest.mark.slow
def test_a_users_own_method_goes_through_to_the_report(method, tmp_path):
    report = partial_fusion(**TINY, methods=("Identity", "PartialOT", method), alphas=(0.0, 0.5))
    run([report], tmp_path / "runs", Local())
    rows = read_rows(report.path(tmp_path / "runs"), "frontier")
    fused = [row["label"] for row in rows if row["kind"] == "fused" and not row["treatment"]]
    assert fused == ["FirstHalf", "Identity", "PartialOT 0", "PartialOT 0.5"]
    assert "FirstHalf" in (report.path(tmp_path / "runs") / "frontier.html").read_text()
    member = next(row for row in rows if row["kind"] == "member")
    half = next(row for row in rows if row["label"] == "FirstHalf")
    assert member["nonzero_parameters"] < half["nonzero_parameters"] < 2 * member["nonzero_parameters"]


def test_other_methods_do_not_change_what_one_method_finds(method, tmp_path):
    alone, beside = (
        partial_fusion(**TINY, methods=methods, alphas=(0.0, 0.5))
        for methods in (("PartialOT",), (method, "PartialOT"))
    )
    keys = [
        {s.key for s in ancestors([r]) if s.name == "fused" and isinstance(s.config.method, PartialOT)}
        for r in (alone, beside)
    ]
    assert keys[0] == keys[1] and len(keys[0]) == 2 * 3  # as it is, recalibrated, refitted


def test_other_code_in_the_file_is_another_matching(method, tmp_path):
    def matchings():
        report = partial_fusion(**TINY, methods=("Identity", method))
        return {step.config.methods[0]: step.key for step in ancestors([report]) if step.name == "matching"}

    before = list(matchings().values())
    (tmp_path / "mine.py").write_text(SOURCE.replace("// self.part", "// 3"))
    after = list(matchings().values())
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("Identiy",), "Identity"),
        ((), "--methods"),
        (("Identity", "Identity"), "'Identity'"),
        (("nowhere.py:Mine",), "nowhere.py"),
    ],
)
def test_methods_that_do_not_exist_are_refused(methods, words):
    with pytest.raises(ValueError, match=words):
        partial_fusion(**TINY, methods=methods)


def test_two_methods_of_one_name_are_refused(method, tmp_path):
    (tmp_path / "other.py").write_text(SOURCE)
    with pytest.raises(ValueError, match="'FirstHalf'"):
        partial_fusion(**TINY, methods=(method, f"{tmp_path / 'other.py'}:FirstHalf"))


def test_a_class_that_matches_nothing_is_refused(tmp_path):
    (tmp_path / "other.py").write_text("class Mine: pass\n")
    for name in ("Mine", "Yours"):
        with pytest.raises(ValueError, match=name):
            partial_fusion(**TINY, methods=(f"{tmp_path / 'other.py'}:{name}",))
