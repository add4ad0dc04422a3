"""A data set is named right, and its files are where they must lie, or one sentence says what to do."""

import shutil

import pytest

from amalgam.tasks.data import catalogue
from amalgam.tasks.data.catalogue import KNOWN, DataSpec, check, files_digest

PETS = DataSpec(name="imagefolder:pets")


@pytest.fixture
def pets(tmp_path):
    """The folder of a set of six empty pictures."""
    for part in ("train", "test"):
        for name in ("cat", "dog", "owl"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            (tmp_path / "pets" / part / name / "1.png").touch()
    return tmp_path / "pets"


def added(folder):
    (folder / "2.png").touch()


def removed(folder):
    (folder / "1.png").unlink()


def renamed(folder):
    (folder / "1.png").rename(folder / "3.png")


def written_over(folder):
    (folder / "1.png").write_bytes(b"other")


@pytest.mark.parametrize(
    "many, changes", [(100, [added, removed, written_over, renamed]), (5, [added, removed, renamed])]
)
def test_the_digest_of_files_changes_with_them(many, changes, pets, monkeypatch):
    monkeypatch.setattr(catalogue, "MANY_FILES", many)  # five pictures are too many to look at each, a hundred not
    for change, name in zip(changes, ("cat", "dog", "owl", "owl"), strict=False):
        before = files_digest(PETS, pets.parent)
        (pets / ".hidden").touch()
        assert files_digest(PETS, pets.parent) == before
        change(pets / "train" / name)
        assert files_digest(PETS, pets.parent) != before, change.__name__


def test_a_moved_set_has_the_digest_it_had(pets):
    before = files_digest(PETS, pets.parent)
    shutil.move(pets, pets.parent / "elsewhere" / "pets")
    assert files_digest(PETS, pets.parent / "elsewhere") == before
    assert files_digest(PETS, pets.parent) is None


def test_a_file_of_arrays_has_a_digest_and_a_set_known_by_name_has_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"one")
    before = files_digest(DataSpec(name="npz:a.npz"), tmp_path)
    (tmp_path / "a.npz").write_bytes(b"other")
    assert files_digest(DataSpec(name="npz:a.npz"), tmp_path) != before
    assert files_digest(DataSpec(name="digits"), tmp_path) is files_digest(DataSpec(name="mnist"), tmp_path) is None


@pytest.mark.parametrize("name, near", [("mnits", "mnist"), ("CIFAR-10", "cifar10"), ("imagefolder:", "imagefolder")])
def test_unknown_name_brings_the_near_ones(name, near):
    with pytest.raises(ValueError, match=near):
        DataSpec(name=name)


def test_digits_need_no_files():
    check(DataSpec(name="digits"), None)


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"digits"}))
def test_absent_files_are_named_with_the_command_that_fetches_them(name, tmp_path):
    with pytest.raises(ValueError, match=r"python -c .*download=True"):
        check(DataSpec(name=name), tmp_path)
    with pytest.raises(ValueError, match="--data-root"):
        check(DataSpec(name=name), None)


def test_absent_folders_are_named(tmp_path):
    (tmp_path / "pets" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="val folder"):
        check(DataSpec(name="imagefolder:pets"), tmp_path)
    with pytest.raises(ValueError, match=r"\.npz"):
        check(DataSpec(name="npz:pets.npz"), tmp_path)


def test_shape_follows_the_image_size():
    assert DataSpec(name="mnist", image_size=32).in_shape == (1, 32, 32)
    with pytest.raises(ValueError, match="classes"):
        _ = DataSpec(name="torchvision:Food101").in_shape


def test_zero_std_is_refused():
    with pytest.raises(ValueError, match="std"):
        DataSpec(name="cifar10", std=(0.5, 0.0, 0.5))
