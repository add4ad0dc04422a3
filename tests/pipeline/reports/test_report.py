"""Reports: the table's arithmetic, and files that hold it whole."""

import csv
import re
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.comparison import comparison_report
from amalgam.pipeline.reports.frontier.page import frontier_report, headline, terminal_table
from amalgam.pipeline.reports.frontier.table import frontier_table
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.store.artifact import Record
from amalgam.tasks.scoring.seeds import over_seeds
from tests.pipeline.reports.results import results

RECORD = Record(
    name="fused",
    fingerprint="4567",
    version=1,
    function="a:b",
    config={},
    inputs={},
    metrics={},
    files={},
    started=0.0,
    seconds=1.5,
    resources={},
    git_commit=None,
    host={},
)
BROKEN_MATHTEXT = r"$\frac{$"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report, metrics = frontier_report(results(), "Four <b>members</b>", {"alphas": [0.0, 0.5]}, [RECORD])
    report.write(folder)
    return folder, metrics


def named(rows, label):
    return next(row for row in rows if row["label"] == label)


def test_rows_are_means_deviations_and_intervals_over_seeds():
    row = named(frontier_table(results(num_seeds=4)), "PartialOT 0.4, recalibrated")
    values = [
        r.value
        for r in results(num_seeds=4)
        if r.network.setting("alpha") == 0.4 and r.network.recalibrated and r.metric == "nll"
    ]
    assert row["seeds"] == 4
    assert row["nll"] == pytest.approx(statistics.fmean(values))
    assert row["nll_std"] == pytest.approx(statistics.stdev(values))
    assert (row["nll_low"], row["nll_high"]) == (over_seeds(values).low, over_seeds(values).high)


def test_one_seed_has_no_deviation():
    row = named(frontier_table(results(num_seeds=1)), "Identity")
    assert row["seeds"] == 1 and row["accuracy_std"] is row["accuracy_low"] is None


def test_costs_are_multiples_of_a_member():
    rows = frontier_table(results(num_members=3))
    for cost in ("parameters", "nonzero_parameters", "flops", "nonzero_flops"):
        assert named(rows, "member 1")[f"relative_{cost}"] == pytest.approx(1)
        assert named(rows, "logit ensemble")[f"relative_{cost}"] == pytest.approx(3)
    assert named(rows, "PartialOT 1")["relative_nonzero_flops"] == pytest.approx(3)
    assert named(rows, "PartialOT 1")["relative_flops"] == pytest.approx(9)


def test_the_order_of_results_does_not_matter():
    one, other = frontier_table(results()), frontier_table(reversed(list(results())))
    assert [row["label"] for row in one] == [row["label"] for row in other]
    assert all(a["accuracy"] == pytest.approx(b["accuracy"]) for a, b in zip(one, other, strict=True))


def test_several_weightings_are_distinguished():
    twice = [
        replace(r, network=r.network.model_copy(update={"weights": weights}))
        for r in results()
        if r.network.kind != "member"
        for weights in ((0.5, 0.5), (0.3, 0.7))
    ]
    labels = [row["label"] for row in frontier_table(twice)]
    assert len(labels) == len(set(labels))
    assert "PartialOT 0.4, recalibrated, weights 0.3/0.7" in labels


def test_every_method_has_its_own_name_in_every_file(report):
    folder, metrics = report
    for file in ("frontier.md", "frontier.html", "frontier.csv"):
        assert all(name in (folder / file).read_text() for name in ("Identity", "FirstHalf", "PartialOT 0.4"))
    assert "accuracy/FirstHalf recalibrated" in metrics


def test_a_report_needs_a_result():
    with pytest.raises(ValueError, match="at least one result"):
        frontier_table([])


def test_tables_on_disk_have_the_rows(report):
    folder, _ = report
    rows = frontier_table(results())
    assert [row["accuracy"] for row in read_rows(folder, "frontier")] == [row["accuracy"] for row in rows]
    with (folder / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert [float(line["accuracy"]) for line in lines] == [row["accuracy"] for row in rows]


def test_the_page_holds_everything_and_fetches_nothing(report):
    folder, _ = report
    page = (folder / "frontier.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "Four &lt;b&gt;members&lt;/b&gt;" in page
    for text in (*(row["label"] for row in frontier_table(results())), "4567", '"alphas"'):
        assert text in page


def test_the_picture_is_a_picture(report):
    from matplotlib.image import imread

    height, width, _ = imread(report[0] / "frontier.png").shape
    assert width == 1200 and height > 500


def test_a_name_that_is_broken_mathtext_is_drawn_letter_by_letter(tmp_path):
    networks = [
        result.network.model_copy(update={"method": BROKEN_MATHTEXT + result.network.method}) for result in results(2)
    ]
    named_so = [replace(result, network=network) for result, network in zip(results(2), networks, strict=True)]
    frontier_report(named_so, BROKEN_MATHTEXT, {})[0].write(tmp_path)
    measures = [Measure(name="accuracy", heading=BROKEN_MATHTEXT)]
    comparison_report(named_so, BROKEN_MATHTEXT, {}, measures)[0].write(tmp_path)
    assert (tmp_path / "frontier.png").is_file() and (tmp_path / "comparison.png").is_file()


def test_the_terminal_shows_every_number_in_eighty_columns(report):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(report[0]))
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    row = named(frontier_table(results()), "PartialOT 0.4")
    cells = (f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_std']:.1f}", f"{row['relative_nonzero_flops']:.2f}x")
    line = next(line for line in text.splitlines() if line.strip().startswith("PartialOT 0.4 "))
    assert all(cell in line for cell in cells)


def test_the_headline_names_what_users_compare(report):
    _, metrics = report
    rows = frontier_table(results())
    assert metrics == headline(rows)
    assert metrics["accuracy/logit ensemble"] == named(rows, "logit ensemble")["accuracy"]
    assert metrics["accuracy/best member"] == max(row["accuracy"] for row in rows if row["kind"] == "member")


def test_a_folder_without_a_report_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no report at"):
        terminal_table(tmp_path)
