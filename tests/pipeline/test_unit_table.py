"""The per-unit summary comes back as written, and a wrong one is refused."""

import numpy as np
import pytest

from amalgam.pipeline.store.unit_table import STATISTICS, read_unit_table, write_unit_table


def summary(num_units: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(num_units)
    return {name: generator.normal(size=num_units) for name in STATISTICS}


def test_statistics_come_back_as_written(tmp_path):
    written = {"net.0": summary(7), "net.1": summary(3)}
    write_unit_table(tmp_path / "units.parquet", written, {"member_fingerprint": "a"})
    read = read_unit_table(tmp_path / "units.parquet")
    assert list(read) == list(written)
    for site, statistics in written.items():
        for name in STATISTICS:
            np.testing.assert_array_equal(read[site][name], statistics[name])


def test_unequal_numbers_of_units_are_refused(tmp_path):
    wrong = summary(7) | {"mean": np.zeros(6)}
    with pytest.raises(ValueError, match="one value per unit in every statistic"):
        write_unit_table(tmp_path / "units.parquet", {"net.0": wrong}, {})
    assert not list(tmp_path.iterdir())


def test_a_table_cut_short_is_one_sentence(tmp_path):
    path = tmp_path / "units.parquet"
    write_unit_table(path, {"net.0": summary(7)}, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_unit_table(path)
