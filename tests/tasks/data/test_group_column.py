"""Pictures of one subject, camera or video stay on one side of a split, whatever layout they lie in."""

import csv

import numpy as np
import pytest
from PIL import Image

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.opening import open_labelled
from amalgam.tasks.data.sources import LabelledConfig, Stored

SUBJECTS, EACH = 8, 5


def write_folder(root, prefix, files_under):
    """Pictures of subjects that show one class each, and their table."""
    rows = []
    for number in range(SUBJECTS * EACH):
        file = root / files_under / prefix / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
        name = file.relative_to(root).as_posix()
        rows.append({"filename": name, "subject": f"s{number // 2 // EACH}-{number % 2}"})
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filename", "subject"])
        writer.writeheader()
        writer.writerows(rows)


def image_folder(root):
    write_folder(root, "", "train")
    (root / "test" / "0").mkdir(parents=True)
    return "imagefolder:."


def domains(root):
    write_folder(root, "photo", "")
    return "domains:."


def arrays(root):
    values = np.arange(SUBJECTS * EACH)
    pixels = np.zeros((len(values), 8, 8), np.uint8) + values[:, None, None].astype(np.uint8)
    labels = values % 2
    subjects = np.array([f"s{number // 2 // EACH}-{number % 2}" for number in values])
    parts = {"images": pixels, "labels": labels, "subject": subjects}
    np.savez(root / "a.npz", **{f"{part}_{k}": v for part in ("train", "test") for k, v in parts.items()})
    return "npz:a.npz"


@pytest.mark.parametrize("layout", [image_folder, domains, arrays])
def test_no_subject_is_on_both_sides_of_a_split(tmp_path, layout):
    name = layout(tmp_path)
    spec = DataSpec(name=name, image_size=8, group_column="subject")
    labelled = LabelledConfig.separable(Stored(data=spec, split="train"), 0.25, 0)
    images, kept, held_out = open_labelled(labelled, tmp_path)
    # The colour of a picture is its number, from which its subject follows.
    numbers = images.pixels[:, 0, 0, 0].numpy().astype(int)
    subjects = np.array([f"{number // 2 // EACH}-{number % 2}" for number in numbers])
    assert not set(subjects[kept]) & set(subjects[held_out])
    assert len(held_out) == 2 * EACH and set(images.labels[held_out].tolist()) == {0, 1}


def test_a_table_that_says_nothing_of_a_picture_is_refused(tmp_path):
    spec = DataSpec(name=domains(tmp_path), image_size=8, group_column="subject")
    with pytest.raises(ValueError, match="no column 'camera'"):
        load(spec.model_copy(update={"group_column": "camera"}), "train", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo" / "0" / "new.png")
    with pytest.raises(ValueError, match=r"photo/0/new\.png"):
        load(spec, "train", tmp_path)
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(ValueError, match=r"metadata\.csv"):
        load(spec, "train", tmp_path)


@pytest.mark.parametrize("name", ["digits", "npz:a.npz"])
def test_a_set_without_such_a_column_is_refused(tmp_path, name):
    arrays(tmp_path)
    with pytest.raises(ValueError, match="video"):
        load(DataSpec(name=name, group_column="video"), "train", tmp_path)
