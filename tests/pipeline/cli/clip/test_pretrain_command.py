"""`amalgam pretrain`: a CLIP of one's own captions, which knows them, and which others can open."""

import csv

import open_clip
import pytest
import torch
from PIL import Image

from amalgam.pipeline.experiments.clip.backbone import Backbone
from amalgam.tasks.clip.toy.captioned_pictures import CaptionedPictures
from amalgam.tasks.models.clip import build_clip
from tests.pipeline.cli.test_command_line import amalgam
from tests.tasks.clip.worlds import write_pictures

COLOURS = ("red", "green", "blue")
SMALL = ("--image-size", "16", "--width", "32", "--layers", "1", "--epochs", "6", "--batch-size", "16")


@pytest.fixture
def pictures(tmp_path):
    """Pictures in three colours, and a table of captions that say which."""
    write_pictures(tmp_path / "pictures", COLOURS, count=40)
    files = sorted((tmp_path / "pictures/train").rglob("*.png"))
    rows = [(file.relative_to(tmp_path), f"something {file.parent.name}, on a wall") for file in files]
    write_table(tmp_path / "pairs.csv", rows)
    return tmp_path


def write_table(path, rows, columns=("picture", "caption")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.mark.parametrize("data", ["pairs.csv", "imagefolder:pictures"])
def test_a_clip_of_own_captions_names_what_it_did_not_see_and_is_opened_by_others(data, pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    more = ("--templates", "something {}") if ":" in data else ()
    assert amalgam("pretrain", data, "--out", "clip", *SMALL, *more) == 0
    assert "12 held out" in capsys.readouterr().out
    backbone = Backbone(architecture="clip", checkpoint="clip")
    ours = build_clip(backbone.spec)
    theirs, _, prepare = open_clip.create_model_and_transforms("local-dir:clip")
    images = torch.stack([prepare(Image.open(f"pictures/test/{name}/0.png")) for name in COLOURS])
    texts = ours.encode_text([f"something {name}" for name in COLOURS])
    features = ours.encode_image(images)
    torch.testing.assert_close(theirs.eval().encode_image(images), features)
    assert (torch.nn.functional.normalize(features, dim=1) @ texts.T).argmax(1).tolist() == [0, 1, 2]
    assert backbone.preprocessing.mean == (0.5,) * 3 and backbone.preprocessing.size == (16, 16)


@pytest.mark.parametrize(
    ("rows", "columns", "flags", "said"),
    [
        ([("nowhere.png", "a"), ("n.png", "b")], ("picture", "caption"), (), "nowhere.png"),
        ([("x.png", "a")], ("name", "caption"), (), "no column picture"),
        ([("x.png", "")], ("picture", "caption"), (), "line 2"),
        ([], ("picture", "caption"), (), "no rows"),
        ([("pairs.csv", "a"), ("pairs.csv", "b")], ("picture", "caption"), (), "different captions"),
        ([("x.png", "a")], ("picture", "caption"), ("--templates", "a {}"), "--templates"),
    ],
)
def test_bad_tables_are_refused_before_anything_is_made(rows, columns, flags, said, tmp_path, capsys):
    write_table(tmp_path / "pairs.csv", rows, columns)
    assert amalgam("pretrain", tmp_path / "pairs.csv", "--out", tmp_path / "clip", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path / "clip").exists()


def test_a_damaged_picture_or_an_impossible_network_leaves_nothing_behind(pictures, capsys):
    for flags, said in ((("--width", "33"), "width"), (SMALL, "cannot be decoded")):
        next((pictures / "pictures/train/red").glob("7.png")).write_bytes(b"no picture")
        assert amalgam("pretrain", pictures / "pairs.csv", "--out", pictures / "clip", *flags) == 2
        assert said in capsys.readouterr().err
        assert sorted(path.name for path in pictures.iterdir()) == ["pairs.csv", "pictures"]


def test_every_picture_is_seen_once_in_an_epoch_and_its_captions_in_turn():
    world = CaptionedPictures(torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1), (("a", "b"),) + (("c",),) * 4)
    seen = [world.batch(torch.arange(5) + 5 * epoch) for epoch in range(2)]
    assert all(sorted(pixels.flatten().tolist()) == [0, 1, 2, 3, 4] for pixels, _ in seen)
    assert [captions[0] for _, captions in seen] == ["a", "b"]
