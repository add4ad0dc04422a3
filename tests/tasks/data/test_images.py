"""Images are read as they are stored: digits, arrays, folders, and the real files of torchvision's sets."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.pixels import in_memory

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def save_pictures(folder, sizes, classes=COLOURS):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.new("RGB", size, COLOURS[name]).save(folder / name / f"{i}.png")


@pytest.fixture
def folder(tmp_path):
    save_pictures(tmp_path / "train", [(40, 30), (31, 50), (32, 32)])
    save_pictures(tmp_path / "val", [(64, 48)])
    return tmp_path


def test_the_halves_of_digits_are_fixed_disjoint_and_stratified():
    train, test = load(DataSpec(name="digits"), "train"), load(DataSpec(name="digits"), "test")
    assert (len(train), len(test), train.shape) == (900, 897, (1, 8, 8))
    assert (train.labels.bincount() - test.labels.bincount()).abs().max() <= 2
    both = torch.cat([train.batch(torch.arange(900)), test.batch(torch.arange(897))]).flatten(1)
    original = np.rint(load_digits().data * 255 / 16)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, original.astype(int).tolist()))


def test_a_batch_follows_its_indices_and_labels():
    images = load(DataSpec(name="digits"), "train")
    order = torch.tensor([5, 0, 5])
    assert torch.equal(images.batch(order), torch.stack([images.batch(i.view(1))[0] for i in order]))
    assert images.batch(order).dtype == torch.uint8 and images.labels.dtype == torch.int64


def test_the_fingerprint_follows_the_content():
    images = load(DataSpec(name="digits"), "train")
    assert images.fingerprint == load(DataSpec(name="digits"), "train").fingerprint
    pixels = images.pixels.clone()
    assert in_memory(pixels, images.labels, images.class_names).fingerprint == images.fingerprint
    pixels[7, 0, 3, 3] += 1
    assert in_memory(pixels, images.labels, images.class_names).fingerprint != images.fingerprint


def test_images_are_resized_on_request():
    assert load(DataSpec(name="digits", image_size=32), "test").shape == (1, 32, 32)


def test_pictures_of_any_size_become_squares_of_their_class(folder):
    images = load(DataSpec(name="imagefolder:.", image_size=16), "train", folder)
    assert images.class_names == ("blue", "red") and images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    batch = images.batch(torch.tensor([4, 1]))
    expected = torch.tensor([COLOURS["red"], COLOURS["blue"]])[:, :, None, None].expand(2, 3, 16, 16)
    assert torch.equal(batch.int(), expected)
    assert len(load(DataSpec(name=f"imagefolder:{folder}"), "test", None)) == 2


def test_the_fingerprint_of_a_folder_does_not_know_where_it_lies(folder, tmp_path_factory):
    spec = DataSpec(name="imagefolder:.")
    first = load(spec, "train", folder).fingerprint
    moved = folder.rename(tmp_path_factory.mktemp("elsewhere") / "pictures")
    assert load(spec, "train", moved).fingerprint == first
    (moved / "train" / "red" / "0.png").rename(moved / "train" / "red" / "9.png")
    assert load(spec, "train", moved).fingerprint != first


def test_a_folder_of_other_classes_is_refused(tmp_path):
    save_pictures(tmp_path / "train", [(8, 8)])
    save_pictures(tmp_path / "test", [(8, 8)], classes=["red"])
    with pytest.raises(ValueError, match=r"got \['red'\]"):
        load(DataSpec(name="imagefolder:."), "test", tmp_path)


def test_a_folder_of_one_class_is_refused(tmp_path):
    for part in ("train", "test"):
        save_pictures(tmp_path / part, [(8, 8)], classes=["red"])
    with pytest.raises(ValueError, match="class 0"):
        load(DataSpec(name="imagefolder:."), "train", tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match="folder"):
        load(DataSpec(name="imagefolder:."), "train", tmp_path)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3)])
def test_user_supplied_arrays(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "own.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    images = load(DataSpec(name="npz:own.npz"), "train", tmp_path)
    assert images.shape == ((3 if len(shape) == 4 else 1), 5, 4)
    expected = torch.from_numpy(pixels).reshape(6, 5, 4, -1).movedim(3, 1)
    assert torch.equal(images.batch(torch.arange(6)), expected)


def test_a_label_of_no_class_is_refused(tmp_path):
    pixels, labels = np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 1])
    np.savez(tmp_path / "own.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels + 1)
    with pytest.raises(ValueError, match=r"1 to 2.* 2 classes .*0 to 1"):
        load(DataSpec(name="npz:own.npz"), "test", tmp_path)


def test_labels_in_a_column_are_labels_and_fractions_are_none(tmp_path):
    pixels, labels = np.zeros((4, 5, 5), np.uint8), np.array([[0], [1], [1], [0]])
    for name, values in (
        ("flat", labels[:, 0]),
        ("column", labels),
        ("real", labels + 0.5),
        ("hot", np.eye(2)[labels[:, 0]]),
    ):
        np.savez(tmp_path / f"{name}.npz", train_images=pixels, train_labels=values)
    flat, column = (load(DataSpec(name=f"npz:{name}.npz"), "train", tmp_path) for name in ("flat", "column"))
    assert torch.equal(flat.labels, column.labels)
    for name in ("real", "hot"):
        with pytest.raises(ValueError, match=r"labels .*got float64"):
            load(DataSpec(name=f"npz:{name}.npz"), "train", tmp_path)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3), (4, 3, 5, 6), (4, 5, 6, 1), (4, 1, 5, 6)])
def test_channels_of_an_npz_may_come_first_or_last_or_not_at_all(tmp_path, shape):
    pixels, labels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "own.npz", train_images=pixels, train_labels=labels)
    assert load(DataSpec(name="npz:own.npz"), "train", tmp_path).shape == (3 if 3 in shape else 1, 5, 6)


def test_pictures_of_four_channels_are_refused(tmp_path):
    np.savez(tmp_path / "own.npz", train_images=np.zeros((4, 5, 6, 4), np.uint8), train_labels=np.array([0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"got uint8 \(4, 5, 6, 4\)"):
        load(DataSpec(name="npz:own.npz"), "train", tmp_path)


def test_a_damaged_npz_is_refused(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"own\.npz .*train_images"):
        load(DataSpec(name="npz:own.npz"), "train", tmp_path)


def test_an_unknown_torchvision_set_brings_the_near_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'Flower102'.*'Flowers102'"):
        load(DataSpec(name="torchvision:Flower102"), "train", tmp_path)


def test_an_absent_torchvision_set_brings_the_command_that_fetches_it(tmp_path):
    with pytest.raises(ValueError, match=r"python -c .*DTD"):
        load(DataSpec(name="torchvision:DTD"), "train", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes, shape, mean",
    [
        ("mnist", (60_000, 10_000), (1, 28, 28), 0.1307),
        ("fashion_mnist", (60_000, 10_000), (1, 28, 28), 0.2860),
        ("cifar10", (50_000, 10_000), (3, 32, 32), (0.4914 + 0.4822 + 0.4465) / 3),
    ],
)
def test_real_files_have_the_published_sizes_and_pixel_means(name, sizes, shape, mean, load_real):
    train, test = load_real(name)
    assert ((len(train), len(test)), train.shape) == (sizes, shape)
    assert train.labels.unique().tolist() == list(range(10)) == test.labels.unique().tolist()
    pixels = train.batch(torch.arange(len(train)))
    assert pixels.sum().item() / pixels.numel() / 255 == pytest.approx(mean, abs=1e-4)


def test_real_arrays_have_the_published_class_sizes(load_real):
    train, test = load_real("npz:usps.npz")
    assert (len(train), len(test), train.shape) == (7_291, 2_007, (1, 16, 16))
    assert (train.labels.bincount().min(), train.labels.bincount().max()) == (542, 1_194)


def test_a_set_by_its_torchvision_name_is_the_set_itself(load_real):
    ours, theirs = load_real("mnist"), load_real("torchvision:MNIST")
    assert [images.shape for images in ours] == [images.shape for images in theirs]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(ours, theirs, strict=True))


def test_a_cut_real_file_is_one_sentence(data_root, tmp_path):
    source = data_root / "MNIST" / "raw"
    if not source.is_dir():
        pytest.skip(f"{source} is absent")
    target = tmp_path / "MNIST" / "raw"
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="'mnist'"):
        load(DataSpec(name="mnist"), "train", tmp_path)
