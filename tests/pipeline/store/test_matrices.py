"""Matrices of activations in files: the same rows whatever the format, and every bad file one sentence."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from amalgam.pipeline.store.tables import matrices
from amalgam.pipeline.store.tables.matrices import open_matrix, read_labels
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import RowsWriter

ROWS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


def write(path, rows=ROWS, labels=None):
    """The rows in the format that the file's name says."""
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".safetensors":
        beside = {} if labels is None else {"labels": torch.from_numpy(labels)}
        save_file({"x": torch.from_numpy(np.ascontiguousarray(rows)), **beside}, path)
    else:
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        beside = {} if labels is None else {"label": pa.array(labels)}
        pq.write_table(pa.table({"x": values, **beside}), path, row_group_size=20)
    return path


def read(matrix):
    return torch.cat([chunk.load() for chunk in matrix.chunks]).numpy()


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet"])
def test_rows_come_back_in_chunks_and_blocks(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "CHUNK_BYTES", 7 * 6 * 4)
    matrix = open_matrix(write(tmp_path / f"one.{suffix}"))
    assert matrix.width == 6 and matrix.num_rows == 50 and len(matrix.chunks) > 2
    np.testing.assert_array_equal(read(matrix), ROWS)
    assert [len(block) for block in matrix.blocks(15)] == [15, 15, 15, 5]
    np.testing.assert_array_equal(torch.cat(list(matrix.blocks(15))).numpy(), ROWS)


def test_shards_of_a_folder_are_one_matrix_with_their_labels(tmp_path):
    labels = np.arange(50)
    write(tmp_path / "a.parquet", ROWS[:10], labels[:10])
    write(tmp_path / "b.safetensors", ROWS[10:], labels[10:])
    (tmp_path / "README.md").write_text("not a shard")
    matrix = open_matrix(tmp_path)
    np.testing.assert_array_equal(read(matrix), ROWS)
    assert matrix.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_that_steps_stage_are_a_matrix(dtype, tmp_path):
    with RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites={"features": (6, 1)}, dtype=dtype)) as writer:
        writer.write(range(50), range(50), "train", {"features": ROWS})
    matrix = open_matrix(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(read(matrix), ROWS.astype(dtype))
    assert matrix.labels.tolist() == list(range(50))


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_floating_point_numbers_are_kept_as_they_are(dtype, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(ROWS.astype(dtype)))
    np.testing.assert_array_equal(read(open_matrix(tmp_path / "x.npy")), ROWS.astype(dtype))


def broken(kind, folder):
    """A place that is no matrix."""
    path = folder / "x.npy"
    match kind:
        case "absent":
            return path
        case "empty folder":
            return folder
        case "another kind of file":
            (folder / "x.csv").write_text("1,2")
            return folder / "x.csv"
        case "cut short":
            whole = write(path).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "cut short parquet":
            path = folder / "x.parquet"
            whole = write(path).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "cut short safetensors":
            path = folder / "x.safetensors"
            whole = write(path).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "one axis":
            np.save(path, ROWS[0])
        case "whole numbers":
            np.save(path, np.arange(12).reshape(3, 4))
        case "pickled objects":
            np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)
        case "no rows":
            np.save(path, ROWS[:0])
        case "two widths":
            write(folder / "a.npy"), write(folder / "b.npy", ROWS[:, :3])
            return folder
        case "two matrices":
            save_file({"x": torch.zeros(2, 3), "y": torch.zeros(2, 3)}, folder / "x.safetensors")
            return folder / "x.safetensors"
    return path


KINDS = ["absent", "empty folder", "another kind of file", "cut short", "cut short parquet", "cut short safetensors"]
KINDS += ["one axis", "whole numbers", "pickled objects", "no rows", "two widths", "two matrices"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_matrix_is_refused_with_its_path(kind, tmp_path):
    place = broken(kind, tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        open_matrix(place)


def test_a_column_is_chosen_by_name_and_bad_values_name_their_file(tmp_path):
    save_file({"x": torch.zeros(2, 3), "y": torch.ones(2, 3)}, tmp_path / "x.safetensors")
    assert open_matrix(tmp_path / "x.safetensors", "y").chunks[0].load().sum() == 6
    with pytest.raises(ValueError, match=r"'z'.*x, y"):
        open_matrix(tmp_path / "x.safetensors", "z")
    wrong = open_matrix(write(tmp_path / "nan.npy", np.full((3, 2), np.nan, dtype=np.float32)))
    with pytest.raises(ValueError, match=r"nan\.npy"):
        wrong.chunks[0].load()


def test_labels_must_be_one_whole_number_a_row(tmp_path):
    np.save(tmp_path / "y.npy", np.arange(5))
    assert read_labels(tmp_path / "y.npy", 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="6 whole numbers"):
        read_labels(tmp_path / "y.npy", 6)
    np.save(tmp_path / "f.npy", np.zeros(5))
    for name in ("f.npy", "none.npy"):
        with pytest.raises(ValueError, match=name):
            read_labels(tmp_path / name, 5)
