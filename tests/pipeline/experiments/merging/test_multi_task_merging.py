"""The experiment on merging, built for real on the digits: what its records and tables must say."""

from itertools import pairwise

import pytest
import torch

from amalgam import Average, RegMean, TaskArithmetic, merge
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.merging import merge_report, terminal_table, verdicts
from amalgam.pipeline.store.artifact import read_curves, read_record
from amalgam.pipeline.store.checkpoints import load_model
from amalgam.pipeline.store.tables.results import read_results
from amalgam.pipeline.store.tables.statistics import read_statistics
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.merging import MERGE_METHODS
from amalgam.tasks.merging.multitask.data import accuracy, open_task
from amalgam.tasks.merging.multitask.heads import encoder_state, head_of, with_encoder
from amalgam.tasks.merging.multitask.spec import TaskSpec
from amalgam.tasks.merging.staged import basis_digest
from amalgam.tasks.merging.statistics.conflict import conflicts
from amalgam.tasks.merging.weights.providers import FunctionalSimilarity
from amalgam.tasks.scoring.results import Network, Result
from tests.pipeline.reports.paths import charted

SMALL = {"seeds": 1, "epochs": 2, "base_epochs": 3, "widths": (16, 12), "rows": 40, "scales": (0.3, 1.0)}
TASKS = ("digits", "digits+turn1", "digits+inverted")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small experiment: its root, its report and its steps by name."""
    root = tmp_path_factory.mktemp("root")
    report = EXPERIMENTS["multi_task_merging"](**SMALL, tasks=TASKS)
    run([report], root, Local())
    steps = {}
    for step in ancestors([report]):
        steps.setdefault(step.name, []).append(step)
    return root, report, steps


def states(built, grid=None):
    """Encoders of the base and of the tasks."""
    root, _, steps = built
    members = [encoder_state(load_model(step.path(root))) for step in steps["task"]]
    return encoder_state(load_model(steps["member"][0].path(root))), members


def step_of(built, label):
    return next(step for step in built[2]["merged"] if step.config.label == label)


@pytest.mark.slow
def test_rows_are_what_the_library_merges(built):
    root, (base, members) = built[0], states(built)
    merged = encoder_state(load_model(step_of(built, "Average").path(root)))
    expected = merge(base, members, Average())
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    chosen = {
        r.metric: r.value for r in read_results(step_of(built, "TaskArithmetic").path(root)) if r.role == "chosen"
    }
    expected = merge(base, members, TaskArithmetic(scale=chosen["scale"]))
    merged = encoder_state(load_model(step_of(built, "TaskArithmetic").path(root)))
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_merged_network_answers_for_every_task_and_is_a_model_of_all_their_classes(built, tmp_path, monkeypatch):
    """Its logits of a task's classes are those of the task's own head behind the merged encoder."""
    import mlflow.pytorch

    from amalgam.pipeline.tracking.models import exportable
    from amalgam.pipeline.tracking.models import save_model as save_mlflow_model

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    root, _, steps = built
    folder = step_of(built, "TSVM").path(root)
    network, correct = load_model(folder), list[float]()
    one = exportable(folder)
    save_mlflow_model(one, tmp_path / "model", {})
    model = mlflow.pytorch.load_model(str(tmp_path / "model"))
    for place, step in enumerate(steps["task"]):
        images = open_task(step.config.task, "test", one.shape)
        classes = slice(10 * place, 10 * place + 10)
        alone = with_encoder(load_model(step.path(root)), encoder_state(network))
        pixels = images.batch(torch.arange(len(images)))
        with torch.no_grad():
            expected = alone(normalise(pixels, images.mean, images.std))
            torch.testing.assert_close(model(pixels)[:, classes], expected, rtol=1e-4, atol=1e-5)
        assert one.class_names[classes] == tuple(f"{step.config.task.name}: {name}" for name in images.class_names)
        correct.append((expected.argmax(1) == images.labels).double().mean().item())
    row = next(row for row in read_rows(built[1].path(root), "merging") if row["label"] == "TSVM")
    assert row["accuracy"] == pytest.approx(sum(correct) / 3)
    assert exportable(steps["member"][0].path(root)).class_names == tuple(map(str, range(10)))


@pytest.mark.slow
def test_staged_statistics_know_the_encoders_and_leave_the_head_out(built):
    root, _, steps = built
    base, members = states(built)
    known = read_statistics(steps["merge_statistics"][0].path(root))
    assert known.estimator == "exact" and len(known.models) == 3
    assert set(known.fisher[0]) == set(members[0]) and not any("layers.4" in name for name in known.grams[0])
    assert merge(base, members, RegMean(), known).keys() == base.keys()
    with pytest.raises(ValueError, match="other weights"):
        merge(base, [base, *members[1:]], RegMean(), known)


@pytest.mark.slow
def test_heads_are_fixed_and_only_encoders_move(built):
    root, _, steps = built
    for step in steps["task"]:
        module = load_model(step.path(root))
        assert head_of(module)[0] == "layers.4"
    (base, members) = states(built)
    assert all(not torch.equal(member["layers.0.weight"], base["layers.0.weight"]) for member in members)


@pytest.mark.slow
def test_report_has_every_method_and_every_task(built):
    root, report, _ = built
    table = {row["label"]: row for row in read_rows(report.path(root), "merging")}
    labels = {label.split()[0] for label in table}
    assert {kind.__name__ for kind in MERGE_METHODS} - labels == {"WiSE", "Slerp"}  # one and two members
    assert all(f"{task}/accuracy" in table["EpiMer"] for task in TASKS)
    for row in table.values():
        assert row["worst_accuracy"] <= row["accuracy"] <= 1
    assert table["EpiMer"]["eta"] >= -1e-10 and terminal_table(report.path(root)).row_count == len(table)
    assert table["fine-tuned"]["accuracy"] > table["base"]["accuracy"]


@pytest.mark.slow
def test_every_method_with_a_scale_tries_the_same_ones(built):
    report = built[1]
    grids = [step.config.grid for step in report.parents if step.name == "merged" and step.config.grid]
    scaled = [[one.scale for one in grid] for grid in grids if hasattr(grid[0], "scale")]
    assert len(scaled) == 13 and all(one == other for one, other in pairwise(scaled))


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"tasks": ("digits",)}, "two tasks"),
        ({"tasks": ("digits", "digits")}, "twice"),
        ({"tasks": ("digits", "digits+turned")}, "turn1"),
        ({"scales": ()}, "scales"),
        ({"shards": 0}, "num_shards"),
        ({"base": "npz:unknown.npz"}, "num-classes"),
    ],
)
def test_bad_flags_are_refused_before_anything_runs(flags, match):
    with pytest.raises(ValueError, match=match):
        EXPERIMENTS["multi_task_merging"](**flags)


def test_tasks_print_as_they_are_read():
    for text in (*TASKS, "mnist+turn3+mirrored+inverted"):
        assert TaskSpec.parse(text).name == text


def results(label, values):
    return [
        Result(Network(kind="fused", method=label, seed=s), "test", None, "accuracy", v) for s, v in enumerate(values)
    ]


def test_sentences_claim_a_win_only_beyond_the_interval_over_seeds():
    close = results("a", [0.80, 0.90]) + results("b", [0.82, 0.87])
    clear = results("a", [0.80, 0.90]) + results("b", [0.70, 0.801])
    assert verdicts(close, "a", ["b"])[0].startswith("a is not clearly apart from b")
    assert verdicts(clear, "a", ["b"])[0].startswith("a beats b by +10.0")
    assert verdicts(clear, "b", ["a"])[0].startswith("b loses to a by -10.0")
    assert merge_report(clear, "", {})[1]["accuracy/a"] == pytest.approx(0.85)


@pytest.mark.slow
def test_conflicts_of_tensors_stand_in_the_report_and_not_among_methods(built):
    root, report, _ = built
    base, members = states(built)
    rows = {row["label"]: row for row in read_rows(report.path(root), "conflicts")}
    assert rows.keys() == {name for name, tensor in base.items() if tensor.is_floating_point()}
    expected = dict(conflicts(base, members))
    for name, one in expected.items():
        assert rows[name]["cosine"] == pytest.approx(one.cosine, abs=1e-6)
    assert not rows.keys() & {row["label"] for row in read_rows(report.path(root), "merging")}
    assert "Where the tasks disagree" in (report.path(root) / "merging.html").read_text()


@pytest.mark.slow
def test_each_task_has_a_merge_of_its_own_by_functional_similarity(built):
    root, _, steps = built
    (step,) = steps["personal_merges"]
    found = {r.metric: r.value for r in read_results(step.path(root)) if r.test_set is None}
    staged = read_statistics(step.inputs["statistics"].path(root))
    base, members = states(built)
    rows = FunctionalSimilarity(temperature=found["temperature"])([one["noise"] for one in staged.embeddings])
    merged = merge(None, members, Average(weights=rows[1]))
    module = load_model(steps["task"][1].path(root))
    images = open_task(TaskSpec.parse(TASKS[1]), "test", (1, 8, 8))
    accuracy_of = {r.test_set: r.value for r in read_results(step.path(root)) if r.test_set}
    assert accuracy_of[TASKS[1]] == pytest.approx(accuracy(with_encoder(module, merged), images))
    with pytest.raises(ValueError, match="other weights"):
        staged.checked("embeddings", [base, *members[1:]])


@pytest.mark.slow
def test_staged_statistics_of_other_data_are_refused(built):
    root, _, steps = built
    folder = steps["projected_gradients"][0].path(root)
    known = read_statistics(folder)
    assert known.basis == basis_digest(*states(built), None)
    with pytest.raises(ValueError, match="other data"):
        read_statistics(folder, "digits of another kind")


@pytest.mark.slow
def test_the_page_of_a_run_in_mlflow_has_a_curve_by_setting_of_every_method_with_several(built):
    """The best of each curve is what the table gives as validation accuracy."""
    root, report, steps = built
    points = charted(read_record(report.path(root)), read_curves(report.path(root)))
    rows = {row["label"]: row for row in read_rows(report.path(root), "merging")}
    assert dict(points["by_setting/TaskArithmetic"]).keys() == {30, 100}
    swept = {step.config.label for step in steps["merged"] if step.config.grid}
    assert {name.removeprefix("by_setting/") for name in points if name.startswith("by_setting/")} == swept
    for label in swept:
        best = max(value for _, value in points[f"by_setting/{label}"])
        assert best == pytest.approx(rows[label]["validation_accuracy"])
    assert points["test/accuracy"][0][1] in [row["accuracy"] for row in rows.values()]
    assert not any(name.startswith(("accuracy/", "worst_accuracy/")) for name in points)
