"""Robustness reports: choices that no test image can move, numbers that are means, and files that hold them whole."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from amalgam.pipeline.cli.show import find_report, print_result
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.reports.files import MINUS, read_rows
from amalgam.pipeline.reports.robustness.config import ResultLabel, RobustnessReportConfig
from amalgam.pipeline.reports.robustness.findings import share_bought_back
from amalgam.pipeline.reports.robustness.page import terminal_table
from amalgam.pipeline.reports.robustness.pooling import network_of, pooled
from amalgam.pipeline.reports.robustness.table import (
    VALIDATION,
    WisePath,
    main_rows,
    robustness_table,
    row_of,
    scores_by_alpha,
    strength_rows,
    whole_paths,
)
from amalgam.pipeline.store.artifact import read_record
from tests.pipeline.paths import ALPHAS, ENDS, robustness

TOLERANCE = 0.02


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A built report with its records, its root and its paths as they were read."""
    root = tmp_path_factory.mktemp("runs")
    step = robustness(seeds=2, num_images=100, tolerance=TOLERANCE)
    run([step], root, Local())
    folders = [path.path(root) for path in step.inputs["paths"]]
    paths = [
        WisePath(label.variant, label.strength, label.seed, scores_by_alpha(read_record(folder).metrics, folder))
        for label, folder in zip(step.config.results, folders, strict=True)
    ]
    return step.path(root), root, paths


@pytest.fixture(scope="module")
def rows(report):
    return robustness_table(whole_paths(report[2]), TOLERANCE)


def choices(rows):
    return [(row["label"], row["chosen_strength"], row["chosen_alpha"], row["within_tolerance"]) for row in rows]


def test_no_choice_depends_on_a_test_score(report, rows):
    generator = np.random.default_rng(0)

    def shuffled(tested):
        scores = {
            name: value if name.startswith("validation/") else generator.random()
            for name, value in tested.scores.items()
        }
        return replace(tested, scores=scores)

    paths = [replace(p, by_alpha={alpha: shuffled(t) for alpha, t in p.by_alpha.items()}) for p in report[2]]
    assert choices(robustness_table(whole_paths(paths), TOLERANCE)) == choices(rows)


def test_rows_are_means_and_deviations_over_seeds(report, rows):
    for row in rows:
        if row["strength"] == 0:
            continue
        scores = [
            path.by_alpha[row["alpha"]].scores
            for path in report[2] if path.setting == (row["variant"], row["strength"]) and row["alpha"] in path.by_alpha
        ]  # fmt: skip
        for measure in ("id/accuracy", "unseen/accuracy", "set/negative/accuracy", "validation/nll"):
            values = [of_seed[measure] for of_seed in scores]
            assert row[measure] == pytest.approx(np.mean(values))
            assert row[measure + "_std"] == pytest.approx(np.std(values, ddof=1))


def test_strength_zero_is_plain_finetuning_and_alpha_zero_is_zero_shot(rows):
    plain, zero = row_of(rows, "ft"), row_of(rows, "zero-shot")
    for row in rows:
        if row["alpha"] == 0:
            assert row["seen/accuracy"] == zero["seen/accuracy"]
        if row["strength"] == 0 and row["alpha"] == 1:
            assert row["seen/accuracy"] == plain["seen/accuracy"]


def test_the_main_table_has_every_variant_in_every_form(rows):
    labels = [row["label"] for row in main_rows(rows)]
    forms = [f"{variant}{form}" for variant in ENDS for form in ("", " + WiSE 0.5", " + WiSE")]
    assert labels == ["zero-shot", *forms]
    assert all(row["chosen_strength"] for row in main_rows(rows))


def test_the_order_of_results_decides_only_the_order_of_rows(report, rows):
    again = robustness_table(whole_paths(report[2][::-1]), TOLERANCE)
    assert sorted(choices(again)) == sorted(choices(rows))


def test_more_tolerance_regularises_more(report):
    def chosen(tolerance):
        return [
            row["strength"] for row in main_rows(robustness_table(whole_paths(report[2]), tolerance)) if row["strength"]
        ]

    assert chosen(0.0) <= chosen(0.05) <= chosen(1.0)
    assert set(chosen(1.0)) == {max(ENDS["l2"]), max(ENDS["sae-mask"])}


def test_a_method_beyond_the_tolerance_is_shown_at_its_best_and_said_to_be(report):
    paths = [p for p in report[2] if p.variant != "ft" or p.seed == 0]
    seed_0 = [path for path in paths if path.seed == 0]
    best = {1.0: replace(seed_0[0].by_alpha[0.0], scores={"validation/accuracy": 1.0, "id/accuracy": 0.9})}
    unbeatable = [replace(path, by_alpha=best) if path.variant == "ft" else path for path in seed_0]
    rows = robustness_table(whole_paths(unbeatable), 0.01)
    chosen, tried = row_of(rows, "l2"), [r for r in strength_rows(rows) if r["variant"] == "l2" and r["strength"]]
    assert not chosen["within_tolerance"]
    assert chosen["validation/accuracy"] == max(row["validation/accuracy"] for row in tried)


def test_differences_are_those_of_the_table_and_turn_their_sign(report, rows):
    ours, theirs = row_of(rows, "sae-mask", "WiSE"), row_of(rows, "ft", "WiSE")
    found = pooled(whole_paths(report[2]), [network_of(ours), network_of(theirs)])
    for role in ("id", "seen", "overall"):
        ahead = found.difference(role, network_of(ours), network_of(theirs))
        behind = found.difference(role, network_of(theirs), network_of(ours))
        assert ahead.value == pytest.approx(ours[f"{role}/accuracy"] - theirs[f"{role}/accuracy"])
        assert ahead.low <= ahead.value <= ahead.high
        assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low))


def test_overall_is_half_in_distribution_and_half_the_mean_of_shifts(rows):
    for row in rows:
        shifts = np.mean([row["seen/accuracy"], row["unseen/accuracy"]])
        assert row["overall/accuracy"] == pytest.approx((row["id/accuracy"] + shifts) / 2)


def test_all_is_bought_back_at_zero_shot_and_nothing_by_plain_finetuning():
    assert share_bought_back(0.4, zero_shot=0.4, plain=0.3) == pytest.approx(1)
    assert share_bought_back(0.3, zero_shot=0.4, plain=0.3) == 0
    assert share_bought_back(0.3, zero_shot=0.3, plain=0.3) is None


def test_files_hold_the_rows_and_findings(report, rows):
    folder, root, _ = report
    assert [row["seen/accuracy"] for row in read_rows(folder, "robustness")] == [row["seen/accuracy"] for row in rows]
    findings = json.loads((folder / "robustness.json").read_text())
    criteria = [criterion["verdict"] for criterion in findings["criteria"]]
    assert criteria[0] == "met" and criteria[2] == "reported"
    assert len(findings["comparisons"]) == 1 + len(ENDS) - 1
    assert find_report(root, None) == folder


def test_the_summary_names_every_row(report, rows):
    metrics = read_record(report[0]).metrics
    for row in main_rows(rows):
        assert metrics[f"seen/{row['label']}"] == row["seen/accuracy"]
    assert metrics["strength/l2"] in ENDS["l2"] and metrics["alpha/ft + WiSE"] in ALPHAS
    assert metrics["difference/seen low"] <= metrics["difference/seen"] <= metrics["difference/seen high"]


def test_the_page_holds_everything_and_fetches_nothing(report, rows):
    page = (report[0] / "robustness.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "Two digits &lt;b&gt;in nine styles&lt;/b&gt;" in page
    findings = json.loads((report[0] / "robustness.json").read_text())
    said = [row["label"] for row in main_rows(rows)] + findings["headlines"] + [findings["recommendation"]]
    assert all(text in page for text in said)


def test_the_picture_is_a_picture(report):
    from matplotlib.image import imread

    height, width, _ = imread(report[0] / "robustness.png").shape
    assert width == 1200 and height > 800


def test_the_terminal_shows_every_row_in_eighty_columns(report, rows, capsys):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(report[0]))
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert all(row["label"] in text for row in main_rows(rows))
    print_result(report[0])
    assert "robustness.html" in capsys.readouterr().out


def test_a_report_without_penalties_or_wise_still_says_what_it_can(tmp_path):
    step = robustness(ends={"ft": ENDS["ft"]}, seeds=1, num_images=50, test_sets={"plain": "id", "other": "forgetting"})
    run([step], tmp_path, Local())
    findings = json.loads((step.path(tmp_path) / "robustness.json").read_text())
    assert [criterion["verdict"] for criterion in findings["criteria"]] == ["cannot be judged"] * 3
    assert findings["comparisons"] == [] and findings["recommendation"] == ""


def test_a_suite_without_test_images_in_distribution_is_reported_on_held_out_ones(tmp_path):
    step = robustness(seeds=1, num_images=50, test_sets={"sketch": "natural"})
    run([step], tmp_path, Local())
    findings = json.loads((step.path(tmp_path) / "robustness.json").read_text())
    assert [criterion["verdict"] for criterion in findings["criteria"]][::2] == ["cannot be judged", "reported"]
    rows = main_rows(read_rows(step.path(tmp_path), "robustness"))
    sae, plain = (next(row for row in rows if row["label"] == label) for label in ("sae-mask", "ft"))
    price = f"{100 * (sae[VALIDATION] - plain[VALIDATION]):+.1f}".replace("-", MINUS)
    assert any(f"(in distribution {price})" in sentence for sentence in findings["headlines"])


def labels(*of):
    return tuple(ResultLabel(variant=variant, strength=strength, seed=seed) for variant, strength, seed in of)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (labels(("ft", None, 0)), "compares with 'zero-shot'"),
        (
            labels(("zero-shot", None, 0), ("zero-shot", None, 1), ("l2", 3.0, 0)),
            r"'l2' at strength 3.0 has seeds \[0\]",
        ),
        (labels(("zero-shot", None, 0), ("ft", None, 0), ("ft", None, 0)), r"'ft' at strength None has seeds \[0, 0\]"),
    ],
)
def test_labels_that_cannot_be_compared_are_one_sentence(results, message):
    with pytest.raises(ValueError, match=message):
        RobustnessReportConfig(title="", settings={}, results=results)


def test_a_record_that_is_no_path_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no path between networks"):
        scores_by_alpha({"test/accuracy": 0.5}, tmp_path)
