"""Predictions come back as they were written, so that every metric can be recomputed from the file."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from amalgam.pipeline.store.tables.predictions import Answers, read_predictions, write_predictions
from amalgam.tasks.scoring.metrics import METRICS, Predictions, estimates, value


def predictions(seed: int, grouped: bool) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (90,), generator=draw)
    said = Predictions.of(torch.randn(90, 5, generator=draw), labels, torch.randperm(90, generator=draw))
    if not grouped:
        return said
    more = {"groups": torch.randint(-1, 3, (90,), generator=draw), "sources": torch.randint(9, (90, 2), generator=draw)}
    return Predictions(**said.columns | more, group_names=("Asia", "Other", "Europe"))


@pytest.fixture
def answers():
    asked = [(name, role, alpha) for name, role in (("fmow", "natural"), ("plain", "id")) for alpha in ("0", "0.5")]
    return [
        Answers(name, role, f"alpha={alpha}", predictions(seed, grouped=name == "fmow"))
        for seed, (name, role, alpha) in enumerate(asked)
    ]


def test_every_metric_is_the_same_from_the_file(answers, tmp_path):
    write_predictions(tmp_path / "predictions.parquet", iter(answers))
    found = list(read_predictions(tmp_path / "predictions.parquet"))
    assert [(a.test_set, a.role, a.network) for a in found] == [(a.test_set, a.role, a.network) for a in answers]
    for read, written in zip(found, answers, strict=True):
        assert (read.predictions.sources is None) == (written.predictions.sources is None)
        for name in {"ids", "labels", "classes", "confidence", "nll", "sources"} & set(written.predictions.columns):
            assert torch.equal(getattr(read.predictions, name), getattr(written.predictions, name))
        for name, metric in METRICS.items():
            if name != "worst_group" or written.predictions.group_names:
                assert value(metric, read.predictions) == value(metric, written.predictions)
                once, again = estimates(metric, [read.predictions, written.predictions], draws=20)
                assert torch.equal(once.draws, again.draws)


def test_some_networks_can_be_read_alone(answers, tmp_path):
    write_predictions(tmp_path / "predictions.parquet", answers)
    found = list(read_predictions(tmp_path / "predictions.parquet", ["alpha=0.5"]))
    assert [(a.test_set, a.network) for a in found] == [("fmow", "alpha=0.5"), ("plain", "alpha=0.5")]


def test_any_reader_of_parquet_understands_it(answers, tmp_path):
    write_predictions(tmp_path / "predictions.parquet", answers)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.column_names == [
        "example_id",
        "test_set",
        "role",
        "network",
        "label",
        "prediction",
        "confidence",
        "nll",
        "group",
        "sources",
    ]
    assert set(table["group"].to_pylist()) == {"Asia", "Other", "Europe", None}
    assert len(table) == 4 * 90


def test_a_writer_that_fails_leaves_no_file(answers, tmp_path):
    def cut():
        yield answers[0]
        raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError):
        write_predictions(tmp_path / "predictions.parquet", cut())
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_of_predictions_is_one_sentence(answers, tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(ValueError, match="no predictions at"):
        next(read_predictions(path))
    write_predictions(path, answers)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged"):
        next(read_predictions(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"\['a'\]"):
        next(read_predictions(path))
