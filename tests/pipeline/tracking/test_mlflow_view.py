"""What MLflow shows of records: names that tell runs apart, and nothing that MLflow refuses."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH, _validate_metric_name, _validate_param

from amalgam.pipeline.engine.host import origin
from amalgam.pipeline.store.artifact import Point, Record
from amalgam.pipeline.store.record_text import flat, titles
from amalgam.pipeline.tracking import view
from amalgam.pipeline.tracking.run_record import RunRecord

ANY_NAME = st.text(min_size=1, max_size=300).filter(lambda name: name.strip() and name != "class")


def record(name: str, fingerprint: str, config: dict[str, Any], inputs: Any = None, **metrics: float) -> Record:
    return Record(
        name=name,
        fingerprint=fingerprint,
        version=1,
        function="a:b",
        config=config,
        inputs=inputs or {},
        metrics=metrics,
        files={},
        started=100.0,
        seconds=2.0,
        resources={},
        git_commit=None,
        host={},
    )


def test_titles_name_what_differs_and_nothing_else():
    methods = [{"class": "Identity"}, {"class": "PartialOT", "alpha": 0.2}, {"class": "PartialOT", "alpha": 0.4}]
    fused = [record("fused", str(i), {"method": method, "weights": [0.5, 0.5]}) for i, method in enumerate(methods)]
    names = ["fused Identity", "fused PartialOT alpha=0.2", "fused PartialOT alpha=0.4"]
    assert list(titles(fused).values()) == names


def test_titles_that_settings_leave_alike_name_what_is_read():
    members = [record("member", key, {"seed": seed}) for seed, key in enumerate("ab")]
    rows = [record("rows", key * 2, {"grid": 2}, {"member": key}) for key in "ab"]
    both = record("matching", "m", {}, {"members": ["a", "b"]})
    named = titles([*members, *rows, both])
    assert named["bb"] == "rows of member seed=1"
    assert named["m"] == "matching"


def test_params_are_paths_of_settings():
    config = {"class": "FusedConfig", "method": {"class": "PartialOT", "alpha": 0.4}, "weights": [0.5, 0.5]}
    assert flat(config) == {"method": "PartialOT", "method.alpha": "0.4", "weights": "[0.5, 0.5]"}


def test_long_settings_are_cut_before_mlflow_does():
    [param] = view.params({"names": ["four two"] * 1000})
    assert len(param.value) <= 500 and param.value.endswith("(12000 characters, see step.json)")


def test_columns_show_the_summary_and_charts_the_curve():
    curve = [Point(metric="validation/accuracy", value=0.1 * step, step=step, time=100.0 + step) for step in range(3)]
    shown = view.step_metrics(record("member", "a", {}, **{"validation/accuracy": 0.9}), curve)
    points = [metric for metric in shown if metric.key == "validation/accuracy"]
    latest = max(points, key=lambda point: (point.step, point.timestamp))
    assert [point.step for point in points] == [0, 1, 2, 2] and latest.value == 0.9


@given(ANY_NAME)
def test_any_name_of_a_user_is_one_that_mlflow_takes(name):
    (param,) = view.params({f"x{name}": 1})
    _validate_param(param.key, param.value)
    for metric in view.step_metrics(record("a", "b", {}, **{f"x{name}": 1.0}), []):
        _validate_metric_name(metric.key)


def test_a_note_fits_in_a_tag_whatever_the_number_of_steps():
    links = [view.Link(f"member seed={i}", "member-0123456789abcdef", "1", "f" * 32) for i in range(500)]
    run = RunRecord(experiment="large", started=0.0)
    for note in (view.run_note(run, "r", links, links, []), view.step_note(record("a", "b", {}), Path("x"), links)):
        cut = view.within_limit(note)
        assert "member seed=499" in note and "member seed=0" in cut
        assert len(note) > MAX_TAG_VAL_LENGTH >= len(cut) and view.NOTE_FILE in cut
        assert view.within_limit(cut) == cut


def test_titles_name_what_is_on_and_not_what_is_off():
    configs = [
        {"method": {"class": "Ward"}, "refitted": refitted, "alphas": [0.1 * i for i in range(length)], "sae": sae}
        for refitted, length, sae in ((False, 1, None), (True, 2, None), (False, 3, {"class": "ChosenSAE"}))
    ]
    names = titles([record("fused", str(i), config) for i, config in enumerate(configs)])
    assert list(names.values()) == ["fused", "fused refitted", "fused sae=ChosenSAE"]
    pairs = [{"settings": [["strength", strength]], "member": 0, "seed": 0} for strength in (1.0, 3.0)]
    assert list(titles([record("path", str(i), pair) for i, pair in enumerate(pairs)]).values()) == [
        "path strength=1.0",
        "path strength=3.0",
    ]


def test_an_address_in_a_command_is_kept_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["/x/amalgam", "run", "walks", "--tracking-uri", "https://me:secret@host/x"])
    found = origin(tmp_path)
    assert found["command"] == "amalgam run walks --tracking-uri https://host/x"
    assert "secret" not in str(found) and "commit" not in found


def test_data_sets_are_named_with_the_digest_of_their_content():
    config = {"sample": {"data": {"class": "DataSpec", "name": "digits"}}}
    read = record("member", "a", config).model_copy(update={"metrics": {"data_fingerprint": "d" * 64}})
    others = record("fused", "b", config).model_copy(update={"data": {"npz:mine.npz": "e" * 16}})
    found = {(one.dataset.name, one.dataset.digest) for one in view.sources([read, read, others])}
    assert found == {("digits", "d" * 36), ("npz:mine.npz", "e" * 16)}
