"""Experiments that compare methods, end to end at their smallest, and the report they share."""

import numpy as np
import pandas as pd
import pytest

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.experiments.architectures import NAMES, model_of, num_parameters
from amalgam.pipeline.reports.comparison import comparison_rows
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.store.artifact import read_records
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.models import build
from amalgam.tasks.scoring.results import Network, Result

SMALL = {
    "few_shot": "--epochs 1 --steps 1 --width 8 --shots 2 --methods supervised,sparse --seeds 2",
    "layered_volumes": "--epochs 1 --num-train 2 --num-test 1 --shape 4,12,12 --window 4,8,8 --levels 2 --width 4 "
    "--seeds 2",
    "architectures": "--epochs 1 --width 24 --depths 1 --names ViM2,ViT --seeds 2",
}


def amalgam(command, root):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--local", "--root", str(root)])
    return ended.value.code or 0


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SMALL)
def test_each_method_is_a_row_of_means_over_its_seeds(experiment, tmp_path, capsys):
    assert amalgam(f"run {experiment} {SMALL[experiment]}", tmp_path) == 0
    (record,) = read_records(tmp_path, "comparison")
    table = pd.read_parquet(tmp_path / record.key / "comparison.parquet")
    single = ~table["label"].str.contains("ensemble")
    assert len(table) >= 2 and (table["seeds"][single] == 2).all() and table["label"].is_unique
    measured = [name for name in table if f"{name}_std" in table]
    assert measured and table[measured].notna().all(axis=None), measured
    assert amalgam(f"run {experiment} {SMALL[experiment]}", tmp_path) == 0  # all of it is found
    assert len(read_records(tmp_path, "comparison")) == 1


def result(method, value, seed=0, test_set=None, **settings):
    network = Network(kind="classifier", method=method, settings=settings, seed=seed)
    return Result(network, "test", test_set, "accuracy", value)


def test_rows_are_means_by_method_and_setting_in_order_of_appearance():
    results = [result("b", 0.5, shots=5), result("b", 0.7, seed=1, shots=5), result("a", 0.1, shots=5)]
    results += [result("b", 0.9, shots=10), result("b", 0.3, shots=5, test_set="other")]
    rows = comparison_rows(
        results, [Measure(name="accuracy", heading="", test_set=test_set) for test_set in (None, "other")]
    )
    assert [(row["label"], row["accuracy"], row["seeds"]) for row in rows] == [
        ("b, shots 5", pytest.approx(0.6), 2),
        ("a, shots 5", 0.1, 1),
        ("b, shots 10", 0.9, 1),
    ]
    assert rows[0]["other/accuracy"] == 0.3 and rows[1]["other/accuracy"] is None
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"]


@pytest.mark.parametrize(
    "labels, width, value",
    [
        ([0, 2] * 20, 12, "class '1' has 0"),
        ([0, 1, 2] * 2, 12, "--shots 2 are all"),
        ([0, 1, 2] * 20, 10, "(1, 12, 10)"),
    ],
)
def test_images_that_make_no_task_of_few_shots_are_refused_before_training(labels, width, value, tmp_path, capsys):
    train, test = (np.zeros((len(labels), 12, 12), np.uint8), np.zeros((4, 12, width), np.uint8))
    arrays = {"train_images": train, "train_labels": labels, "test_images": test, "test_labels": [0, 2, 0, 2]}
    np.savez(tmp_path / "set.npz", **arrays)
    assert amalgam(f"run few_shot --data npz:{tmp_path}/set.npz --shots 2 --epochs 1 --steps 1", tmp_path / "runs") == 2
    assert value in capsys.readouterr().err and not list((tmp_path / "runs").glob("few_shot*"))


def test_plans_of_octa_500_name_what_is_missing_and_price_the_rest(tmp_path, capsys):
    for folder in ("OCT/1", "OCT/2", "OCTA/1", "OCTA/2", "GT_Layers"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "GT_Layers" / "1.mat").touch()
    command = f"plan layered_volumes --data octa500:{tmp_path} --root {tmp_path}/runs"
    with pytest.raises(SystemExit, match="2"):
        main(command.split())
    assert "2.mat" in capsys.readouterr().err
    (tmp_path / "GT_Layers" / "2.mat").touch()
    with pytest.raises(SystemExit, match="0"):
        main(command.split())
    assert "13 steps to run" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data, width, depths", [("digits", 48, (2, 2)), ("cifar10", 32, (1, 1))])
def test_architectures_are_compared_at_equal_parameters(name, data, width, depths):
    vim2, rival = (model_of(each, DataSpec(name=data), width, depths) for each in ("ViM2", name))
    counted = sum(parameter.numel() for parameter in build(rival, 0).parameters())
    assert counted == num_parameters(rival) == pytest.approx(num_parameters(vim2), rel=0.06)
    assert "," not in name  # it separates the names of --names


@pytest.mark.parametrize(
    "command, value",
    [
        ("few_shot --methods gan", "'gan'"),
        ("few_shot --shots 5,5", "--shots names 5 twice"),
        ("few_shot --seeds 0", "--seeds must be at least 1, got 0"),
        ("few_shot --width 6", "width must be a multiple of 4, got 6"),
        ("few_shot --shots 500 --epochs 1 --steps 1", "--shots 500"),
        ("layered_volumes --shape 4,12,13", "13"),
        ("layered_volumes --shape 16,32", "--shape is depth, height and width"),
        ("layered_volumes --window 8,8,8,8", "--window is depth, height and width"),
        ("layered_volumes --layer-weights ,", "--layer-weights is empty"),
        ("layered_volumes --num-train 1000000000000", "GB"),
        ("layered_volumes --width 6", "width must be a multiple of 4, got 6"),
        ("layered_volumes --data octa500:nowhere", "nowhere"),
        ("layered_volumes --data brain", "'brain'"),
        ("architectures --names ViM3", "'ViM2'"),
        ("architectures --width 1", "--width must be at least 8"),
        ("architectures --depths 1,1,1", "multiples of 16"),
        ("architectures --depths ,", "depths"),
        ("architectures --train-images 5000 --names ViT", "810"),
        ("partial_fusion --model vim2_tiny --probe-rows 40", "SelectiveScan"),
    ],
)
def test_a_setting_without_a_meaning_is_one_sentence(command, value, tmp_path, capsys):
    assert amalgam(f"run {command}", tmp_path) == 2
    error = capsys.readouterr().err
    assert value in error and "Traceback" not in error
