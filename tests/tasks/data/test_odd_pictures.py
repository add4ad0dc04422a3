"""What lies among pictures and is none, or is one that decoders trip over: read rightly, or refused by its name."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.models.spec import ModelSpec

SIDE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / part / name / "b.png")
    return tmp_path


def bomb(path: Path) -> None:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    body = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def huge_text(path: Path) -> None:
    """A picture with a comment that unpacks to more than Pillow reads."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * (80 * 2**20), zip=True)
    Image.new("RGB", (SIDE, SIDE)).save(path, pnginfo=info)


ODD = {
    "a bomb": bomb,
    "a text too large": huge_text,
    "floating point": lambda path: Image.fromarray(np.ones((SIDE, SIDE), np.float32)).save(path, format="TIFF"),
    "32 bits": lambda path: Image.fromarray(np.full((SIDE, SIDE), 10**6, np.int32)).save(path, format="TIFF"),
    "cut short": lambda path: path.write_bytes((path.parent / "b.png").read_bytes()[:45]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "a named pipe": lambda path: os.mkfifo(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("layout", ["imagefolder", "classes"])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_picture_is_named_or_left_out(folder, make, layout):
    make(folder / "train" / "cat" / "a.png")
    name = f"imagefolder:{folder}" if layout == "imagefolder" else f"classes:{folder / 'train'}"
    with pytest.raises(ValueError, match=r"a\.png"):
        images = load(DataSpec(name=name, image_size=8), "train")
        images.batch(torch.arange(len(images)))
    left = load(DataSpec(name=name, image_size=8, skip_damaged=True), "train")
    assert left.batch(torch.arange(len(left))).shape[0] == 2


@pytest.mark.parametrize("layout", ["imagefolder", "classes"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_grey_of_16_bits_looks_like_its_8_bit_copy(folder, mode, layout):
    ramp = np.tile(np.linspace(0, 65535, SIDE).astype(np.uint16), (SIDE, 1))
    for name, picture in (
        ("a.tif", Image.fromarray(ramp.astype({"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]))),
        ("aa.png", Image.fromarray((ramp >> 8).astype(np.uint8))),
    ):
        picture.save(folder / "train" / "cat" / name)
    place = f"imagefolder:{folder}" if layout == "imagefolder" else f"classes:{folder / 'train'}"
    deep, plain = load(DataSpec(name=place, image_size=SIDE), "train").batch(torch.tensor([0, 1]))
    assert torch.equal(deep, plain) and deep.float().std() > 50


@pytest.mark.parametrize("layout", ["imagefolder", "classes"])
@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"])
@pytest.mark.parametrize("holds_a_picture", [False, True])
def test_folders_that_are_no_content_are_no_class(folder, name, holds_a_picture, layout):
    for part in ("train", "test"):
        (folder / part / name).mkdir()
        if holds_a_picture:
            Image.new("RGB", (SIDE, SIDE)).save(folder / part / name / "a.png")
        Image.new("RGB", (SIDE, SIDE)).save(folder / part / "cat" / "._b.png")
    place = f"imagefolder:{folder}" if layout == "imagefolder" else f"classes:{folder / 'train'}"
    images = load(DataSpec(name=place, image_size=8), "train")
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [0, 1]


@pytest.mark.parametrize("label", [10**9, 2**40, 7, -1])
def test_labels_that_count_no_classes_are_refused_before_they_cost_memory(tmp_path, label):
    labels = np.array([0, 1, 0, 1, label])
    arrays = {
        f"{part}_{what}": value
        for part in ("train", "test")
        for what, value in (("images", np.zeros((5, 8, 8), np.uint8)), ("labels", labels))
    }
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=str(label)):
        load(DataSpec(name=f"npz:{tmp_path / 'set.npz'}"), "train")


def test_an_absurd_size_is_refused_by_what_it_would_cost():
    with pytest.raises(ValueError, match=r"3e\+13 GB"):
        DataSpec(name="digits", image_size=10**11)


@pytest.mark.parametrize(
    "model, options", [("mlp", {"widths": (99999999999,)}), ("resnet18", {"width": 1e6}), ("vgg11", {"width": 1e12})]
)
def test_a_network_that_no_machine_holds_is_refused_by_what_it_would_cost(model, options):
    with pytest.raises(ValueError, match=r"[0-9.e+]+ parameters, [0-9.e+]+ GB"):
        ModelSpec(name=model, num_classes=10, in_shape=(3, 32, 32), options=options)
