"""A data set is named right, and its files are where they must lie, or one sentence says what to do."""

import pytest

from tasks.data.catalogue import KNOWN, DataSpec, check


@pytest.mark.parametrize("name, near", [("mnits", "mnist"), ("CIFAR-10", "cifar10"), ("imagefolder:", "imagefolder")])
def test_unknown_name_brings_the_near_ones(name, near):
    with pytest.raises(ValueError, match=f"there is no data set .*{near}"):
        DataSpec(name=name)


def test_digits_need_no_files():
    check(DataSpec(name="digits"), None)


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"digits"}))
def test_absent_files_are_named_with_the_command_that_fetches_them(name, tmp_path):
    with pytest.raises(ValueError, match=r"is not under .* is missing; fetch it once with: python -c .*download=True"):
        check(DataSpec(name=name), tmp_path)
    with pytest.raises(ValueError, match="needs a data root"):
        check(DataSpec(name=name), None)


def test_absent_folders_are_named(tmp_path):
    (tmp_path / "pets" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no val folder"):
        check(DataSpec(name="imagefolder:pets"), tmp_path)
    with pytest.raises(ValueError, match=r"must be a numpy .npz file"):
        check(DataSpec(name="npz:pets.npz"), tmp_path)


def test_shape_follows_the_image_size():
    assert DataSpec(name="mnist", image_size=32).in_shape == (1, 32, 32)
    with pytest.raises(ValueError, match="only once it is loaded"):
        _ = DataSpec(name="torchvision:Food101").in_shape


def test_zero_std_is_refused():
    with pytest.raises(ValueError, match="std must not be 0"):
        DataSpec(name="cifar10", std=(0.5, 0.0, 0.5))
