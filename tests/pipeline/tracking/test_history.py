"""Histories of metrics weight checkpoints: from CSV and MLflow the same, and what is missing is named."""

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.tracking.history import checkpoint_weights, read_history, write_history
from amalgam.tasks.merging.weights.providers import MWA

LOSSES = {10: 0.8, 20: 0.4, 30: 0.2}


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "history.csv"
    rows = [f"{step},{loss},{1 - loss}" for step, loss in LOSSES.items()]
    path.write_text("\n".join(["step,validation/nll,validation/accuracy", *rows]) + "\n")
    return path


def test_csv_and_mlflow_give_the_same_history(history, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("training")).info.run_id
    for step, loss in LOSSES.items():
        client.log_metric(run, "validation/nll", loss, step=step)
    assert read_history(run, "validation/nll", uri) == read_history(str(history), "validation/nll") == LOSSES
    with pytest.raises(ValueError, match="validation/nll"):
        read_history(run, "validation/nnl", uri)
    with pytest.raises(ValueError, match="no MLflow run"):
        read_history("0" * 32, "validation/nll", uri)
    with pytest.raises(ValueError, match="tracking-uri"):
        read_history(run, "validation/nll")


def test_weights_are_of_the_steps_asked_for_or_the_last():
    assert checkpoint_weights(LOSSES, MWA(), 2) == pytest.approx((1 / 3, 2 / 3))
    assert checkpoint_weights(LOSSES, MWA(), 2, [30, 10]) == pytest.approx((0.8, 0.2))
    assert checkpoint_weights(LOSSES, MWA(by="step"), 3) == pytest.approx((1 / 6, 1 / 3, 1 / 2))
    for count, steps, match in ((4, (), "4 checkpoints"), (2, (10, 25), "step 25"), (2, (10,), "2 checkpoints")):
        with pytest.raises(ValueError, match=match):
            checkpoint_weights(LOSSES, MWA(), count, steps)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("step,loss\n1,nan\n", "nan at step 1"),
        ("step,loss\n1,x\n", "numbers"),
        ("step,lost\n1,2\n", "lost"),
        ("time,loss\n1,2\n", "step"),
    ],
)
def test_bad_histories_are_named(tmp_path, text, match):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_history(str(tmp_path / "bad.csv"), "loss")


def test_command_weights_checkpoints_by_their_losses(history, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 1.0), ("b", 4.0)):
        save_file({"w": torch.full((3,), value)}, f"{name}.safetensors")
    history_flags = ("--history", "history.csv", "--metric", "validation/nll", "--steps", "20,30")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "merge",
                "a.safetensors",
                "b.safetensors",
                "--no-base",
                "--method",
                "average",
                "--out",
                "out",
                *history_flags,
            ]
        )
    assert not ended.value.code
    torch.testing.assert_close(load_file("out/model.safetensors")["w"], torch.full((3,), 3.0))


def test_a_table_in_parquet_reads_as_it_was_written(tmp_path):
    write_history(
        path := tmp_path / "history.parquet", [{"step": 1, "nll": 0.5}, {"step": 2, "nll": 0.25, "late": 1.0}]
    )
    assert read_history(str(path), "nll") == {1: 0.5, 2: 0.25} and read_history(str(path), "late") == {2: 1.0}
    with pytest.raises(ValueError, match="did you mean 'nll'"):
        read_history(str(path), "nl")
    with pytest.raises(ValueError, match="no history at"):
        read_history(str(tmp_path / "other.parquet"), "nll")
