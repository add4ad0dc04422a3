"""Activation rows: what is written is read back, in constant memory, and a damaged file says so."""

import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.store.tables.rows import describe, read_rows
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import RowsWriter

SITES = {"net.0": (3, 4), "net.0.act": (5, 1)}
PROVENANCE = {"member_fingerprint": "a" * 16, "data_fingerprint": "b" * 16}


def activations(num_rows: int, dtype: str = "float16", seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        site: generator.normal(size=(num_rows, units * positions)).astype(dtype)
        for site, (units, positions) in SITES.items()
    }


def domains(ids: np.ndarray) -> list[str]:
    return [("bold", "thin", "été")[i // 3 % 3] for i in ids]


def write(path: Path, num_rows: int, batch: int, group_bytes: int = 2**20, dtype: str = "float16") -> dict:
    values = activations(num_rows, dtype)
    ids = np.arange(num_rows)
    with RowsWriter(path, RowsSchema(sites=SITES, dtype=dtype, provenance=PROVENANCE), group_bytes) as writer:
        for start in range(0, num_rows, batch):
            part = slice(start, start + batch)
            taken = {site: v[part] for site, v in values.items()}
            writer.write(ids[part], ids[part] % 10, "probe", taken, domains(ids[part]))
    return values


def read(path: Path, **options) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    batches = list(read_rows(path, **options))
    sites = {site: np.concatenate([rows.sites[site] for rows in batches]) for site in batches[0].sites}
    return np.concatenate([r.ids for r in batches]), np.concatenate([r.labels for r in batches]), sites


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_rows=st.integers(1, 60),
    batch=st.integers(1, 70),
    batch_read=st.integers(1, 70),
    group_rows=st.integers(1, 70),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_rows_come_back_as_written_however_batched(tmp_path, num_rows, batch, batch_read, group_rows, dtype):
    path = tmp_path / "rows.parquet"
    row_bytes = RowsSchema(sites=SITES, dtype=dtype).row_bytes
    values = write(path, num_rows, batch, group_rows * row_bytes, dtype)
    ids, labels, sites = read(path, batch_size=batch_read)
    np.testing.assert_array_equal(ids, np.arange(num_rows))
    np.testing.assert_array_equal(labels, np.arange(num_rows) % 10)
    for site in SITES:
        np.testing.assert_array_equal(sites[site], values[site])
        assert sites[site].dtype == dtype
    batches = list(read_rows(path, batch_size=batch_read))
    assert [name for rows in batches for name in rows.domains] == domains(ids)
    assert all(len(rows.ids) == batch_read for rows in batches[:-1])  # so that files can be read side by side
    groups = pq.ParquetFile(path).metadata
    assert all(groups.row_group(i).num_rows == group_rows for i in range(groups.num_row_groups - 1))


def test_rows_of_several_views_and_none_named_domain(tmp_path):
    with RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites=SITES)) as writer:
        for view in range(3):
            writer.write(range(4), range(4), "probe", activations(4), view=view)
    (rows,) = read_rows(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(rows.views, np.arange(12) // 4)
    np.testing.assert_array_equal(rows.domains, [""] * 12)


@pytest.mark.parametrize("change", [{"domain": "bold"}, {"view": 1}])
def test_digest_is_of_domains_and_views_as_well(tmp_path, change):
    for name, options in (("a", {}), ("b", change)):
        with RowsWriter(tmp_path / name, RowsSchema(sites=SITES)) as writer:
            writer.write(range(4), range(4), "probe", activations(4), **options)
    assert describe(tmp_path / "a").digest != describe(tmp_path / "b").digest


def test_digest_is_of_the_values_alone(tmp_path):
    for name, rows, batch, group in (("a", 50, 7, 100), ("b", 50, 50, 2**20), ("c", 49, 7, 100)):
        write(tmp_path / name, rows, batch, group)
    digests = {name: describe(tmp_path / name).digest for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_file_describes_itself(tmp_path):
    write(tmp_path / "rows.parquet", 20, 6)
    info = describe(tmp_path / "rows.parquet")
    assert (info.num_rows, info.sites, info.dtype, info.provenance) == (20, SITES, "float16", PROVENANCE)
    assert len(info.digest) == 32
    assert "net.0.act: fixed_size_binary[10]" in info.schema


def test_rows_of_one_view_are_read_without_decoding_the_others(tmp_path):
    path, values = tmp_path / "rows.parquet", activations(30)
    with RowsWriter(path, RowsSchema(sites=SITES), row_group_bytes=34 * 7) as writer:  # groups of 7 rows
        for view in range(3):
            writer.write(
                np.arange(10), np.zeros(10), "probe", {k: v[view * 10 :][:10] for k, v in values.items()}, view=view
            )
    for view, count in ((0, 10), (1, 10), (2, 10), (3, 0)):
        found = list(read_rows(path, view=view, batch_size=4))
        assert sum(len(rows.ids) for rows in found) == count
        for rows in found:
            for site in SITES:
                np.testing.assert_array_equal(rows.sites[site], values[site][view * 10 + rows.ids])
    damage(path, 0)
    with pytest.raises(ValueError, match="damaged"):
        list(read_rows(path, view=0))
    assert sum(len(rows.ids) for rows in read_rows(path, view=2)) == 10


def damage(path, group):
    """Overwrite the values of one row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(5)
    content = bytearray(path.read_bytes())
    place = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[place : place + 8] = bytes(byte ^ 255 for byte in content[place : place + 8])
    path.write_bytes(content)


def test_one_site_can_be_read_alone(tmp_path):
    values = write(tmp_path / "rows.parquet", 20, 6)
    _, _, sites = read(tmp_path / "rows.parquet", sites=["net.0"])
    np.testing.assert_array_equal(sites.pop("net.0"), values["net.0"])
    assert not sites


def test_the_caller_may_reuse_its_buffers(tmp_path):
    buffers = activations(4)
    kept = {site: values.copy() for site, values in buffers.items()}
    with RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites=SITES)) as writer:
        writer.write(range(4), range(4), "probe", buffers)
        for values in buffers.values():
            values[:] = 0
    _, _, sites = read(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(sites["net.0"], kept["net.0"])


@pytest.mark.parametrize("keep", [0, 3, 200, -1, -100])
def test_a_file_cut_short_is_one_sentence(tmp_path, keep):
    path = tmp_path / "rows.parquet"
    write(path, 200, 50)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    for use in (describe, read_rows):
        with pytest.raises(ValueError, match=r"rows\.parquet .*damaged"):
            use(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "rows.parquet"
    write(path, 2000, 500)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        list(read_rows(path))


def test_other_parquet_is_refused(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    with pytest.raises(ValueError, match=r"\['a', 'b'\]"):
        read_rows(path)
    with pytest.raises(ValueError, match="no activation rows at"):
        describe(tmp_path / "absent.parquet")


def test_an_unknown_site_names_the_known_ones(tmp_path):
    write(tmp_path / "rows.parquet", 5, 5)
    with pytest.raises(ValueError, match=r"'net\.1': .*net\.0, net\.0\.act"):
        read_rows(tmp_path / "rows.parquet", sites=["net.1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.0": np.full((4, 12), np.nan)}, "'net.0' is NaN, infinite or beyond float16"),
        ({"net.0": np.full((4, 12), 1e5)}, r"beyond float16 \(65504\): store float32"),
        ({"net.0": np.zeros((4, 11))}, "needs 4 rows of 12 values"),
        ({"net.9": np.zeros((4, 12))}, "rows need the sites"),
    ],
)
def test_bad_rows_are_refused_and_leave_no_file(tmp_path, change, message):
    with (
        pytest.raises(ValueError, match=message),
        RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites=SITES)) as writer,
    ):
        writer.write(range(4), range(4), "probe", activations(4))
        writer.write(range(4), range(4), "probe", activations(4) | change)
    assert os.listdir(tmp_path) == []


def test_a_domain_is_that_of_all_rows_or_of_each(tmp_path):
    with (
        pytest.raises(ValueError, match="4, got 2"),
        RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites=SITES)) as writer,
    ):
        writer.write(range(4), range(4), "probe", activations(4), domain=["bold", "thin"])


def test_no_rows_leave_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="no activation rows to write"),
        RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites=SITES)),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_failed_disk_leaves_no_file(tmp_path):
    """A file size limit stands for the full disk; it needs a process of its own."""
    program = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from amalgam.pipeline.store.tables.rows_schema import RowsSchema
        from amalgam.pipeline.store.tables.rows_writer import RowsWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        values = np.random.default_rng(0).normal(size=(100, 1000))
        try:
            with RowsWriter(Path(sys.argv[1]), RowsSchema(sites={"a": (1000, 1)}), 50_000) as writer:
                for _ in range(20):
                    writer.write(range(100), range(100), "probe", {"a": values})
        except OSError as error:
            print(error.strerror)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "rows.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in run.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("num_threads", [1, 3])
def test_rows_come_in_order_whatever_the_number_of_threads(tmp_path, num_threads):
    values = write(tmp_path / "rows.parquet", 500, 50, group_bytes=2000)
    with threads(num_threads):
        ids, _, sites = read(tmp_path / "rows.parquet", batch_size=7)
    np.testing.assert_array_equal(ids, np.arange(500))
    np.testing.assert_array_equal(sites["net.0"], values["net.0"])


def readers() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("parquet")]


def test_a_reader_that_stops_early_leaves_no_thread_behind(tmp_path):
    write(tmp_path / "rows.parquet", 500, 50, group_bytes=2000)
    rows = read_rows(tmp_path / "rows.parquet", batch_size=7)
    next(rows)
    assert readers()
    rows.close()
    assert not readers()


@pytest.mark.slow
@pytest.mark.parametrize("num_batches", [40, 160])
def test_memory_is_constant_whatever_the_number_of_rows(tmp_path, num_batches):
    """Four times the rows, the same bound: 2 MiB batches through 4 MiB row groups, and Parquet's pages."""
    schema = RowsSchema(sites={"a": (64, 16), "b": (1024, 1)}, dtype="float32")
    values = np.random.default_rng(0).normal(size=(256, 1024)).astype("float32")
    pool, path = pa.default_memory_pool(), tmp_path / "rows.parquet"
    start, in_arrow = pool.bytes_allocated(), []
    tracemalloc.start()
    with RowsWriter(path, schema, row_group_bytes=4 * 2**20) as writer:
        for i in range(num_batches):
            writer.write(range(256 * i, 256 * (i + 1)), range(256), "probe", {"a": values, "b": values})
            in_arrow.append(pool.bytes_allocated())
    with threads(2):  # Each thread decodes a row group ahead.
        for _ in read_rows(path, batch_size=256):
            in_arrow.append(pool.bytes_allocated())
    _, in_python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > num_batches * 2**20
    assert max(in_arrow) - start + in_python < 32 * 2**20


@pytest.mark.parametrize(("dtype", "least"), [("float32", -9), ("float32", 1.5), ("float16", -9), ("float16", 1.5)])
def test_what_abounds_in_zeros_is_small_and_half_precision_is_one_value_a_row(dtype, least, tmp_path):
    normal = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
    values = np.where(normal > least, normal, 0).astype(dtype)
    path = tmp_path / "rows.parquet"
    with RowsWriter(path, RowsSchema(sites={"x": (64, 1)}, dtype=dtype)) as writer:
        for part in (slice(0, 3), slice(3, 500)):
            writer.write(np.arange(500)[part], np.zeros(500)[part], "train", {"x": values[part]})
    np.testing.assert_array_equal(np.concatenate([rows.sites["x"] for rows in read_rows(path, batch_size=70)]), values)
    column = pq.read_metadata(path).row_group(0).column(5)
    assert (column.total_compressed_size < values.nbytes / 4) == (least > 0)
    assert column.num_values == (500 if dtype == "float16" else 500 * 64)
    assert ("BYTE_STREAM_SPLIT" in column.encodings) == (dtype == "float32" and least < 0)
