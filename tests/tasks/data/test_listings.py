"""Pictures of test sets are read from the layouts they come in, prepared as open_clip does, damaged ones by name."""

import csv

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from amalgam.tasks.data.catalogue import DataSpec, check
from amalgam.tasks.data.images import load

SHADES = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def picture(path, colour="red", size=(20, 16), frame=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, SHADES[colour])
    if frame:
        image.paste(Image.new("RGB", (size[0] - 4, size[1] - 4), SHADES[frame]), (2, 2))
    image.save(path)


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def colours(images) -> list[str]:
    means = images.batch(torch.arange(len(images))).float().mean((2, 3)).argmax(1)
    return [list(SHADES)[channel] for channel in means.tolist()]


def test_folders_of_classes_are_one_set_whatever_the_split(tmp_path):
    for colour in SHADES:
        picture(tmp_path / "n01" / colour / "1.png", colour)
    spec = DataSpec(name="classes:n01", image_size=8)
    images = load(spec, "test", tmp_path)
    assert images.class_names == ("blue", "green", "red") == tuple(colours(images))
    assert images.labels.tolist() == [0, 1, 2] and images.fingerprint == load(spec, "train", tmp_path).fingerprint


def test_classes_called_by_numbers_are_in_the_order_of_numbers(tmp_path):
    for number, colour in ((10, "blue"), (2, "green"), (0, "red")):
        picture(tmp_path / "v2" / str(number) / "1.png", colour)
    assert colours(load(DataSpec(name="classes:v2", image_size=8), "test", tmp_path)) == ["red", "green", "blue"]


def test_some_classes_can_be_read_in_any_order(tmp_path):
    for colour in SHADES:
        picture(tmp_path / "all" / colour / "1.png", colour)
    images = load(DataSpec(name="classes:all", classes=("red", "blue"), image_size=8), "test", tmp_path)
    assert (images.class_names, colours(images)) == (("red", "blue"), ["red", "blue"])
    with pytest.raises(ValueError, match="yellow"):
        check(DataSpec(name="classes:all", classes=("yellow",)), tmp_path)


def test_a_border_is_cut_off_before_anything_is_resized(tmp_path):
    for colour in ("green", "blue"):
        picture(tmp_path / "objects" / colour / "1.png", "red", frame=colour)
    whole, cut = (load(DataSpec(name="classes:objects", border=b, image_size=8), "test", tmp_path) for b in (0, 2))
    assert whole.batch(torch.tensor([0]))[0, 0].any()
    assert not cut.batch(torch.tensor([0, 1]))[:, 0].any() and colours(cut) == ["blue", "green"]
    assert whole.fingerprint != cut.fingerprint
    with pytest.raises(ValueError, match=r"20 x 16 .*border of 8"):
        load(DataSpec(name="classes:objects", border=8), "test", tmp_path).batch(torch.tensor([0]))


def test_bicubic_pictures_are_those_of_open_clip(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 37, 53, 3), np.uint8)
    for name, pixels in zip("ab", noise, strict=True):
        (tmp_path / "noise" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "noise" / name / "1.png")
    images = load(DataSpec(name="classes:noise", image_size=16, interpolation="bicubic"), "test", tmp_path)
    theirs = open_clip.image_transform(16, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    expected = torch.stack([theirs(Image.fromarray(pixels)) for pixels in noise])
    torch.testing.assert_close(images.batch(torch.arange(2)) / 255, expected)


def test_domains_are_groups_that_share_their_classes(tmp_path):
    for place in ("art/red", "art/blue", "photo/red", "photo/green"):
        picture(tmp_path / "domains" / place / "1.png", place.split("/")[1])
    spec = DataSpec(name="domains:domains", image_size=8)
    images = load(spec, "test", tmp_path)
    assert images.class_names == ("blue", "green", "red") and images.group_names == ("art", "photo")
    assert [images.class_names[label] for label in images.labels.tolist()] == colours(images)
    assert images.groups.tolist() == [0, 0, 1, 1]
    one = load(spec.model_copy(update={"part": "photo"}), "test", tmp_path)
    assert (len(one), one.class_names, set(one.groups.tolist())) == (2, images.class_names, {1})
    with pytest.raises(ValueError, match="sketch"):
        check(spec.model_copy(update={"part": "sketch"}), tmp_path)


@pytest.fixture
def iwildcam(tmp_path):
    parts = (("train", 0), ("train", 2), ("id_test", 0), ("test", 1), ("test", 2))
    rows = [
        {"split": part, "filename": f"{i}.jpg", "y": y, "location_remapped": i} for i, (part, y) in enumerate(parts)
    ]
    for row in rows:
        picture(tmp_path / "iwildcam_v2.0" / "train" / row["filename"], list(SHADES)[row["y"]])
    table(tmp_path / "iwildcam_v2.0" / "metadata.csv", rows)
    table(tmp_path / "iwildcam_v2.0" / "categories.csv", [{"y": i, "name": n} for i, n in ((2, "ox"), (0, "empty"))])
    return tmp_path


def test_camera_traps_are_read_by_their_official_parts(iwildcam):
    spec = DataSpec(name="iwildcam:iwildcam_v2.0", image_size=8)
    train, test = load(spec, "train", iwildcam), load(spec, "test", iwildcam)
    assert train.class_names == ("empty", "class 1", "ox") == test.class_names
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2], [1, 2]) and colours(test) == ["green", "blue"]
    with pytest.raises(ValueError, match="class 0"):
        load(spec.model_copy(update={"part": "id_test"}), "test", iwildcam)
    with pytest.raises(ValueError, match=r"'ood': .*train, id_val, id_test, val, test"):
        DataSpec(name="iwildcam:iwildcam_v2.0", part="ood")


def test_satellite_pictures_are_dealt_by_year_and_grouped_by_region(tmp_path):
    home = tmp_path / "fmow_v1.1"
    wanted = [
        ("train", 2012, "FRA", "train"),
        ("train", 2014, "FRA", None),
        ("val", 2012, "FRA", "id_val"),
        ("val", 2013, "JPN", "val"),
        ("val", 2016, "JPN", None),
        ("test", 2015, "JPN", None),
        ("test", 2012, "JPN", "id_test"),
        ("test", 2016, "ATA", "test"),
        ("test", 2017, "XXX", "test"),
        ("test", 2017, "JPN", "test"),
        ("seq", 2017, "JPN", None),
    ]
    rows = [
        {
            "split": split,
            "category": ("zoo", "airport")[i % 2],
            "country_code": country,
            "timestamp": f"{year}-01-01T00:00:00Z",
        }
        for i, (split, year, country, _) in enumerate(wanted)
    ]
    for i in range(len(rows)):
        picture(home / "images" / f"rgb_img_{i}.png", ("blue", "red")[i % 2])
    table(home / "rgb_metadata.csv", rows)
    regions = (("FRA", "Europe"), ("JPN", "Asia"), ("ATA", ""))
    table(home / "country_code_mapping.csv", [{"alpha-3": code, "region": region} for code, region in regions])
    images = load(DataSpec(name="fmow:fmow_v1.1", image_size=8), "test", tmp_path)
    assert images.class_names == ("airport", "zoo") and images.labels.tolist() == [0, 1, 0]
    assert colours(images) == ["red", "blue", "red"]
    assert [images.group_names[group] for group in images.groups.tolist()] == ["Other", "Other", "Asia"]
    for part in ("train", "id_val", "val", "id_test"):
        alone = DataSpec(name="fmow:fmow_v1.1", part=part)
        with pytest.raises(ValueError, match=r"class \d \(1 "):
            load(alone, "test", tmp_path)


def test_a_table_without_a_column_is_refused(iwildcam):
    table(iwildcam / "iwildcam_v2.0" / "metadata.csv", [{"split": "test", "file": "0.jpg"}])
    with pytest.raises(ValueError, match=r"metadata\.csv .*'filename'.* split, file"):
        load(DataSpec(name="iwildcam:iwildcam_v2.0"), "test", iwildcam)


@pytest.fixture
def damaged(tmp_path):
    for colour in SHADES:
        for i in range(2):
            picture(tmp_path / "set" / colour / f"{i}.png", colour)
    (tmp_path / "set" / "green" / "1.png").write_bytes((tmp_path / "set" / "green" / "0.png").read_bytes()[:50])
    (tmp_path / "set" / "red" / "0.png").write_bytes(b"no picture")
    return tmp_path


def test_a_damaged_picture_is_named(damaged):
    images = load(DataSpec(name="classes:set"), "test", damaged)
    images.batch(torch.tensor([0, 1, 2]))
    for place, name in ((3, "green/1.png"), (4, "red/0.png")):
        with pytest.raises(ValueError, match=f"{name} .*skip_damaged"):
            images.batch(torch.tensor([place]))


def test_damaged_pictures_are_skipped_on_request_and_counted(damaged):
    images = load(DataSpec(name="classes:set", skip_damaged=True, image_size=8), "test", damaged)
    assert (len(images), images.num_skipped) == (4, 2)
    assert colours(images) == ["blue", "blue", "green", "red"]
    assert [images.class_names[label] for label in images.labels.tolist()] == colours(images)
    for path in (damaged / "set").glob("*/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="6 pictures"):
        load(DataSpec(name="classes:set", skip_damaged=True), "test", damaged)


def test_a_whole_set_skips_nothing(tmp_path):
    for colour in SHADES:
        picture(tmp_path / "set" / colour / "0.png", colour)
    asked, unasked = (load(DataSpec(name="classes:set", skip_damaged=skip), "test", tmp_path) for skip in (True, False))
    assert asked.num_skipped == 0 and torch.equal(*(one.batch(torch.arange(3)) for one in (asked, unasked)))


def test_torchvisions_sets_without_splits_are_halved_class_by_class(tmp_path):
    for name, folder in (("EuroSAT", "eurosat/2750"), ("Caltech101", "caltech101/101_ObjectCategories")):
        for colour in SHADES:
            for i in range(1, 5):
                picture(tmp_path / folder / colour / f"image_{i:04d}.jpg", colour)
        picture(tmp_path / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google" / "1.jpg")  # is left out
        (tmp_path / "caltech101" / "Annotations").mkdir(exist_ok=True)
        train, test = (
            load(DataSpec(name=f"torchvision:{name}", image_size=8), part, tmp_path) for part in ("train", "test")
        )
        assert train.class_names == test.class_names == ("blue", "green", "red")
        for half in (train, test):
            assert half.labels.bincount().tolist() == [2, 2, 2]
            assert [half.class_names[label] for label in half.labels.tolist()] == colours(half)
        assert train.fingerprint != test.fingerprint


def test_arrays_are_enlarged_when_they_are_read():
    spec = DataSpec(name="digits", image_size=24, interpolation="bicubic")
    images, small = load(spec, "test"), load(DataSpec(name="digits"), "test")
    assert images.shape == (1, 24, 24) and len(images) == len(small) and torch.equal(images.labels, small.labels)
    ids = torch.tensor([5, 0])
    expected = torch.nn.functional.interpolate(small.batch(ids), (24, 24), mode="bicubic", antialias=True)
    assert torch.equal(images.batch(ids), expected)
    assert (
        images.fingerprint != small.fingerprint != load(spec.model_copy(update={"image_size": 4}), "test").fingerprint
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "digits", "border": 2}, "border"),
        ({"name": "npz:a.npz", "skip_damaged": True}, "border"),
        ({"name": "mnist", "part": "val"}, "has no part 'val': it is read as train and test"),
        ({"name": "imagefolder:a", "classes": ("b",)}, "classes"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSpec(**settings)


@pytest.mark.parametrize("name", ["classes:a", "domains:a", "iwildcam:a", "fmow:a"])
def test_what_is_absent_is_said_with_its_layout(name, tmp_path):
    with pytest.raises(ValueError, match=f"'{name}' .*a must be "):
        check(DataSpec(name=name), tmp_path)
    (tmp_path / "a").mkdir()
    if name in ("iwildcam:a", "fmow:a"):
        with pytest.raises(ValueError, match=r"metadata\.csv .*WILDS"):
            check(DataSpec(name=name), tmp_path)
    else:
        with pytest.raises(ValueError, match="pictures of"):
            load(DataSpec(name=name), "test", tmp_path)
