"""What reaches the network: every image once, scaled, and augmented as told."""

from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import pad

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.loading import batches, crop_flip, normalise, num_batches, shuffled_batches
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.data.reading.pictures import decoded
from amalgam.tasks.data.synthetic.corruptions import corrupted_images


@pytest.fixture(scope="module")
def digits():
    return load(DataSpec(name="digits"), "train")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_pixels_are_scaled_to_mean_and_std():
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8, generator=seeded(0))
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 1.0)
    by_hand = torch.stack([(pixels[:, c] / 255 - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(normalise(pixels, mean, std), by_hand)
    torch.testing.assert_close(normalise(pixels), pixels / 127.5 - 1)


@pytest.mark.parametrize("as_type", [list, np.array, torch.tensor])
def test_batches_keep_the_order_of_their_indices(digits, as_type):
    indices = [5, 3, 800, 3, 7]
    found = list(batches(digits, as_type(indices), 2))
    assert [len(batch.ids) for batch in found] == [2, 2, 1]
    assert torch.cat([batch.ids for batch in found]).tolist() == indices
    torch.testing.assert_close(torch.cat([b.images for b in found]), normalise(digits.batch(torch.tensor(indices))))
    assert torch.equal(torch.cat([b.labels for b in found]), digits.labels[indices])


def test_images_are_scaled_by_the_numbers_of_their_set(digits):
    images = in_memory(digits.pixels, digits.labels, digits.class_names, mean=0.0, std=1.0)
    assert next(batches(images, range(9), 9)).images.min() == 0


@pytest.mark.parametrize("num_images, batch_size", [(10, 3), (11, 3), (12, 3), (1, 3), (5, 1), (2, 5)])
def test_an_epoch_shows_every_image_once_but_a_lone_last_one(digits, num_images, batch_size):
    shown = [batch.ids for batch in shuffled_batches(digits, range(num_images), batch_size, generator=seeded(0))]
    assert len(shown) == num_batches(num_images, batch_size)
    ids = torch.cat(shown).tolist()
    lone = num_images % batch_size == 1 and num_images > 1 and batch_size > 1
    assert len(ids) == num_images - lone == len(set(ids)) and set(ids) <= set(range(num_images))


def test_the_generator_is_all_that_shuffles(digits):
    def order(seed):
        return torch.cat([b.ids for b in shuffled_batches(digits, range(50), 8, generator=seeded(seed))])

    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))


def test_every_augmented_picture_is_a_window_of_its_padded_self():
    pixels = torch.randint(1, 256, (200, 3, 16, 16), dtype=torch.uint8, generator=seeded(0))
    seen = set()
    for original, shown in zip(pixels, crop_flip(pixels, seeded(1)), strict=True):
        wide = pad(original, (2, 2, 2, 2))
        windows = {(y, x, flip): wide[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5) for flip in (0, 1)}
        places = [key for key, window in windows.items() if torch.equal(window.flip(2) if key[2] else window, shown)]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == pytest.approx(50, abs=5)  # 200 draws from 50 places leave about one unseen


def test_augmentation_changes_the_pictures_but_not_their_order(digits):
    plain = next(shuffled_batches(digits, range(64), 64, generator=seeded(0)))
    augmented = next(shuffled_batches(digits, range(64), 64, generator=seeded(0), augment="crop_flip"))
    assert torch.equal(plain.ids, augmented.ids) and not torch.equal(plain.images, augmented.images)


def test_pictures_in_files_are_batched_as_tensors_are(digits, tmp_path):
    for split in ("train", "test"):
        for i in range(10):
            (tmp_path / split / str(i % 2)).mkdir(parents=True, exist_ok=True)
            grey = digits.pixels[i].expand(3, 8, 8).movedim(0, -1).numpy()
            Image.fromarray(grey).save(tmp_path / split / str(i % 2) / f"{i}.png")
    pictures = load(DataSpec(name="imagefolder:.", image_size=8), "train", tmp_path)
    tensors = in_memory(pictures.batch(torch.arange(10)), pictures.labels, pictures.class_names)
    for shown, expected in zip(batches(pictures, range(10), 4), batches(tensors, range(10), 4), strict=True):
        assert all(torch.equal(mine, its) for mine, its in zip(shown, expected, strict=True))
    (tmp_path / "train" / "1" / "9.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"9\.png.*skip_damaged"):
        list(batches(pictures, range(10), 4))


@pytest.mark.parametrize("is_corrupted", [False, True])
def test_the_next_batch_of_files_is_read_while_one_is_used(is_corrupted):
    reads = Event()

    def picture(position):
        if position == 2:
            reads.set()
        return Image.new("RGB", (16, 16))

    files = decoded(DataSpec(name="imagefolder:.", image_size=16), picture, [0, 1, 0, 1], ("a", "b"), "")
    images = corrupted_images(files, "fog", 1, 0) if is_corrupted else files
    next(batches(images, range(4), 2))
    assert reads.wait(10)
