"""Robustness reports: choices that no test image can move, numbers that are means, and files that hold them whole."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from amalgam.pipeline.cli.show import find_report, print_result
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.robustness.config import RobustnessReportConfig
from amalgam.pipeline.reports.robustness.figure import robustness_figure
from amalgam.pipeline.reports.robustness.findings import grid_ends
from amalgam.pipeline.reports.robustness.page import terminal_table
from amalgam.pipeline.reports.robustness.pooling import key_of, pooled
from amalgam.pipeline.reports.robustness.sentences import strength_forms
from amalgam.pipeline.reports.robustness.table import (
    VALIDATION,
    formed_rows,
    main_rows,
    path_frame,
    robustness_table,
    row_of,
    strength_rows,
)
from amalgam.pipeline.reports.tables import MINUS
from amalgam.pipeline.store.artifact import read_curves, read_record
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.scoring.selection import recovered_fraction
from tests.pipeline.reports.paths import ALPHAS, ENDS, charted, robustness

PAIR = ("sae-mask", "l2")
TOLERANCE = 0.02
BROKEN_MATHTEXT = r"$\frac{$"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A built report, its root and the results of its paths by folder."""
    root = tmp_path_factory.mktemp("runs")
    step = robustness(seeds=2, num_images=100, tolerance=TOLERANCE, compare=PAIR)
    run([step], root, Local())
    return step.path(root), root, {path.path(root): read_results(path.path(root)) for path in step.inputs["paths"]}


@pytest.fixture(scope="module")
def tested(report, tmp_path_factory):
    """Another root with the same paths, for other reports on them."""
    return shutil.copytree(report[1], tmp_path_factory.mktemp("tested") / "runs")


@pytest.fixture(scope="module")
def frame(report):
    return path_frame(report[2])


@pytest.fixture(scope="module")
def rows(frame):
    return robustness_table(frame, TOLERANCE)


def choices(rows):
    return [(row["label"], row["chosen_strength"], row["chosen_alpha"], row["within_tolerance"]) for row in rows]


def test_no_choice_depends_on_a_test_score(frame, rows):
    random = np.random.default_rng(0).random(len(frame))
    shuffled = frame.assign(value=frame["value"].where(frame["role"] == "validation", random))
    assert choices(robustness_table(shuffled, TOLERANCE)) == choices(rows)


def test_rows_are_means_and_deviations_over_seeds(report, rows):
    results = [result for of_path in report[2].values() for result in of_path]
    for row in rows:
        if row["strength"] == 0 or (row["alpha"] == 0 and row["method"] == "zero-shot"):
            continue
        of_row = [
            result
            for result in results
            if (result.network.method, result.network.setting("strength"), result.network.setting("alpha"))
            == (row["method"], row["strength"], row["alpha"])
        ]
        for measure in ("id/accuracy", "unseen/accuracy", "set/negative/accuracy", "validation/nll"):
            values = [result.value for result in of_row if result.measure == measure]
            assert row[measure] == pytest.approx(np.mean(values))
            assert row[measure + "_std"] == pytest.approx(np.std(values, ddof=1))
            assert row[measure + "_low"] <= row[measure] <= row[measure + "_high"]


def test_paired_deviations_do_not_see_what_a_seed_adds_to_all_rows(frame, rows):
    shifted = robustness_table(frame.assign(value=frame["value"] + 0.1 * frame["seed"]), TOLERANCE)
    for row, same in zip(rows, shifted, strict=True):
        assert same["id/accuracy_std_paired"] == pytest.approx(row["id/accuracy_std_paired"], abs=1e-9)
        assert same["id/accuracy"] == pytest.approx(row["id/accuracy"] + 0.05)


def test_paired_deviations_of_two_networks_are_that_of_their_difference(frame):
    """With two networks and two seeds, each deviation is that of the difference over the root of 2 (Morey 2008)."""
    two = frame[frame["method"].isin(["zero-shot", "lp"]) & frame["alpha"].isin([0.0, 1.0])]
    two = two[(two["method"] == "zero-shot") | (two["alpha"] == 1)]
    rows = robustness_table(two, TOLERANCE)
    values = two[two["measure"] == "id/accuracy"].pivot_table("value", "seed", "method")
    expected = (values["lp"] - values["zero-shot"]).std() / 2**0.5
    assert [row["id/accuracy_std_paired"] for row in rows] == pytest.approx([expected] * 2)


def test_strength_zero_is_plain_finetuning_and_alpha_zero_is_zero_shot(rows):
    plain, zero = row_of(rows, "ft"), row_of(rows, "zero-shot")
    for row in rows:
        if row["alpha"] == 0:
            assert row["seen/accuracy"] == zero["seen/accuracy"]
        if row["strength"] == 0 and row["alpha"] == 1:
            assert row["seen/accuracy"] == plain["seen/accuracy"]


def test_the_main_table_has_every_method_in_every_form(rows):
    labels = [row["label"] for row in main_rows(rows)]
    forms = [(method, form) for method in ENDS for form in ("", "WiSE 0.5", "WiSE")]
    assert [(row["method"], row["form"]) for row in formed_rows(rows)] == [("zero-shot", ""), *forms]
    assert set(labels) <= {row["label"] for row in formed_rows(rows)}
    assert all(row["chosen_strength"] for row in main_rows(rows))


def test_no_row_of_the_main_table_repeats_another(frame, rows):
    best_alone = frame.assign(value=frame["value"].where(frame["measure"] != VALIDATION, frame["alpha"]))
    for each in (rows, robustness_table(best_alone, 0.0)):
        networks = [(row["method"], row["alpha"]) for row in main_rows(each)]
        assert len(set(networks)) == len(networks)
    assert "ft + WiSE" not in {row["label"] for row in main_rows(robustness_table(best_alone, 0.0))}


def test_a_choice_at_the_end_of_its_grid_is_named(frame):
    [warning] = [text for text in grid_ends(robustness_table(frame, 1.0)) if " of l2 is" in text]
    assert warning.startswith("strength 1000 of l2 is the largest tried")
    assert not [text for text in grid_ends(robustness_table(frame, 0.02)) if " of l2 is the largest" in text]


@pytest.mark.parametrize(("form", "sums", "wide"), [("mean", "4.688", "2400"), ("sum", "300", "153600")])
def test_a_chosen_strength_is_given_in_both_forms(frame, form, sums, wide):
    rows = [row | {"drift/width": 64.0, "drift/length": 10.0} for row in robustness_table(frame, 0.01)]
    said = strength_forms(rows, form)
    assert f"{sums} in sum form" in said and f"{wide} at width 512" in said and "1/100 where it squares" in said


def test_the_order_of_results_decides_only_the_order_of_rows(report, rows):
    again = robustness_table(path_frame(dict(reversed(report[2].items()))), TOLERANCE)
    assert sorted(choices(again)) == sorted(choices(rows))


def test_more_tolerance_regularises_more(frame):
    def chosen(tolerance):
        return [row["strength"] for row in main_rows(robustness_table(frame, tolerance)) if row["strength"]]

    assert chosen(0.0) <= chosen(0.05) <= chosen(1.0)
    assert set(chosen(1.0)) == {max(ENDS["l2"]), max(ENDS["sae-mask"])}


def test_choices_are_made_by_the_official_metric_where_it_was_recorded(frame):
    held_out = frame[frame["measure"] == VALIDATION]
    reverse = held_out.assign(value=1 - held_out["value"], metric="macro_f1", measure="validation/macro_f1")
    chosen = [row_of(robustness_table(each, 0), "l2")["strength"] for each in (frame, pd.concat([frame, reverse]))]
    assert chosen[0] < chosen[1] == max(ENDS["l2"])


def test_a_method_beyond_the_tolerance_is_shown_at_its_best_and_marked(frame):
    plain = (frame["method"] == "ft") | (frame["strength"] == 0)
    unbeatable = frame.assign(value=frame["value"].where(~plain | (frame["measure"] != VALIDATION), 1.0))
    rows = robustness_table(unbeatable, 0.01)
    chosen, tried = row_of(rows, "l2"), [r for r in strength_rows(rows) if r["method"] == "l2" and r["strength"]]
    assert not chosen["within_tolerance"]
    assert chosen[VALIDATION] == max(row[VALIDATION] for row in tried)


def test_differences_are_those_of_the_table(frame, rows):
    ours, theirs = row_of(rows, "sae-mask", "WiSE"), row_of(rows, "ft", "WiSE")
    found = pooled(frame, [key_of(ours), key_of(theirs)])
    for role in ("id", "seen", "overall"):
        ahead = found.difference(role, key_of(ours), key_of(theirs))
        assert ahead.value == pytest.approx(ours[f"{role}/accuracy"] - theirs[f"{role}/accuracy"])
        assert ahead.low <= ahead.value <= ahead.high
        assert ahead.seeds.low <= ahead.seeds.mean <= ahead.seeds.high


def test_overall_is_half_in_distribution_and_half_the_mean_of_shifts(rows):
    for row in rows:
        shifts = np.mean([row["seen/accuracy"], row["unseen/accuracy"]])
        assert row["overall/accuracy"] == pytest.approx((row["id/accuracy"] + shifts) / 2)


def test_all_is_recovered_at_zero_shot_and_nothing_by_plain_finetuning():
    assert recovered_fraction(0.4, zero_shot=0.4, plain=0.3) == pytest.approx(1)
    assert recovered_fraction(0.3, zero_shot=0.4, plain=0.3) == 0
    assert recovered_fraction(0.3, zero_shot=0.3, plain=0.3) is None


def test_files_have_the_rows_and_findings(report, rows):
    folder, root, _ = report
    assert [row["seen/accuracy"] for row in read_rows(folder, "robustness")] == [row["seen/accuracy"] for row in rows]
    findings = json.loads((folder / "robustness.json").read_text())
    assert len(findings["comparisons"]) == 1 + len(ENDS) - 1
    assert findings["comparisons"][0]["ours"].startswith("sae-mask, at ")
    assert "id" not in findings["comparisons"][0]["by_role"] and "seen" in findings["comparisons"][0]["mean_gaps"]
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


def test_deviations_are_called_paired_wherever_they_are_shown(report, rows):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(report[0]))
    figure = " ".join(text.get_text() for text in robustness_figure(rows, "").texts)
    files = [(report[0] / f"robustness.{suffix}").read_text() for suffix in ("html", "md")]
    assert all("paired" in " ".join(text.split()) for text in (capture.get(), figure, *files))
    row = main_rows(rows)[0]
    shown = f"{100 * row['id/accuracy']:.1f} ± {100 * row['id/accuracy_std_paired']:.1f}"
    assert all(shown in text for text in (capture.get(), *files))


def test_the_picture_is_a_picture(report):
    from matplotlib.image import imread

    height, width, _ = imread(report[0] / "robustness.png").shape
    assert width == 1200 and height > 800


def test_a_method_whose_name_is_broken_mathtext_is_drawn_letter_by_letter(rows, tmp_path):
    renamed = [row | {"method": BROKEN_MATHTEXT} if row["method"] == "l2" else row for row in rows]
    robustness_figure(renamed, BROKEN_MATHTEXT).savefig(tmp_path / "figure.png")


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
    assert findings["comparisons"] == [] and findings["recommendation"] == ""


@pytest.mark.slow
def test_a_suite_without_test_images_in_distribution_is_reported_on_held_out_ones(tmp_path):
    step = robustness(seeds=1, num_images=50, test_sets={"sketch": "natural"})
    run([step], tmp_path, Local())
    findings = json.loads((step.path(tmp_path) / "robustness.json").read_text())
    rows = main_rows(read_rows(step.path(tmp_path), "robustness"))
    sae, plain = (next(row for row in rows if row["label"] == label) for label in ("sae-mask", "ft"))
    price = f"{100 * (sae[VALIDATION] - plain[VALIDATION]):+.1f}".replace("-", MINUS)
    assert any(f"(in distribution {price})" in sentence for sentence in findings["headlines"])


@pytest.mark.slow
def test_nothing_of_a_single_seed_is_bold(tested, report):
    step = robustness(seeds=1, num_images=100, compare=PAIR)
    run([step], tested, Local())
    bold = re.compile(r"<td><strong>")
    assert not bold.search((step.path(tested) / "robustness.html").read_text())
    assert bold.search((report[0] / "robustness.html").read_text())


@pytest.mark.slow
def test_no_pair_is_compared_that_nobody_named(tested):
    step = robustness(seeds=1, num_images=100)
    run([step], tested, Local())
    page = (step.path(tested) / "robustness.html").read_text()
    assert "Criteria" not in page and "sae-mask against l2" not in page
    assert not any(name.startswith("difference/") for name in read_record(step.path(tested)).metrics)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("l2", "lp"), ("lp", "ft")])
def test_any_pair_of_methods_is_compared(pair, tested):
    step = robustness(seeds=2, num_images=100, compare=pair)
    run([step], tested, Local())
    folder = step.path(tested)
    findings = json.loads((folder / "robustness.json").read_text())
    assert any(sentence.startswith(f"{pair[0]} against {pair[1]} at") for sentence in findings["headlines"])
    assert "difference/seen" in read_record(folder).metrics
    assert "by Student" in (folder / "robustness.html").read_text()


@pytest.mark.parametrize("pair", [("l2",), ("l2", "l2"), ("l2", "lp", "ft")])
def test_a_comparison_is_of_two_methods(pair):
    with pytest.raises(ValueError, match="two different methods"):
        RobustnessReportConfig(title="", settings={}, compare=pair)


def test_results_that_cannot_be_compared_are_named(report):
    def of(*wanted):
        return {folder: rows for folder, rows in report[2].items() if any(fits(rows[0].network) for fits in wanted)}

    def is_zero_shot(network):
        return network.method == "zero-shot"

    with pytest.raises(ValueError, match="zero-shot"):
        path_frame(of(lambda network: network.method == "ft"))
    with pytest.raises(ValueError, match=r"'l2' .*100\.0 .*\[0\]"):
        path_frame(of(is_zero_shot, lambda network: (network.method, network.seed) == ("l2", 0)))
    plain = next(rows for rows in report[2].values() if (rows[0].network.method, rows[0].network.seed) == ("ft", 0))
    with pytest.raises(ValueError, match=r"'ft' .*nan .*\[0, 0\]"):
        path_frame(of(lambda network: network.seed == 0) | {report[0]: plain})


def test_the_page_of_a_run_in_mlflow_has_curves_by_strength_and_by_alpha(report, rows):
    """Their points are the rows of the table; a chart of one bar is left to the run of the report itself."""
    points = charted(read_record(report[0]), read_curves(report[0]))
    strengths = dict(points["by_strength/seen/l2"])
    assert list(strengths) == [0, 1, 2, 3]
    swept = [row for row in strength_rows(rows) if row["method"] == "l2"]
    assert list(strengths.values()) == [row["seen/accuracy"] for row in sorted(swept, key=lambda row: row["strength"])]
    chosen = [row for row in rows if row["method"] == "sae-mask" and row["chosen_strength"]]
    expected = {round(100 * row["alpha"]): row["unseen/accuracy"] for row in chosen}
    assert dict(points["by_alpha/unseen/sae-mask"]) == expected and len(expected) == len(ALPHAS)
    # A step that takes long, as on a busy machine, has curves of the machine too.
    assert {name for name, of_name in points.items() if len(of_name) < 2 and not name.startswith("system/")} == {
        *("test/accuracy", "test/accuracy_std"),
        *("usage/seconds", "usage/bytes", "usage/cpu_seconds"),
    }
