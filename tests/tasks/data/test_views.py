"""A view of a picture is a function of its number and the picture's position, and of nothing else."""

import pytest
import torch
from torch.nn.functional import pad
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from amalgam.tasks.data.loading import normalise, shuffled_batches, view_batches
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.data.views import View, crops
from amalgam.tasks.training.config import TrainConfig

KINDS = ("shift", "resized_crop")
SIZE = (24, 28)


@pytest.fixture(scope="module")
def pictures():
    pixels = torch.randint(1, 256, (60, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return in_memory(pixels, torch.arange(60) % 2, ("even", "odd"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_does_not_depend_on_batch_order_or_seed(pictures, kind):
    view = View(kind, 3)
    whole = next(view_batches(pictures, range(60), 60, view=view)).images
    shown = list(view_batches(pictures, [40, 7, 59, 7, 0], 2, view=view))
    assert torch.equal(torch.cat([batch.images for batch in shown]), whole[[40, 7, 59, 7, 0]])
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        for batch in shuffled_batches(pictures, range(60), 13, generator=draw, augment=view):
            assert torch.equal(batch.images, whole[batch.ids])


@pytest.mark.parametrize("kind", KINDS)
def test_views_and_pictures_differ(pictures, kind):
    shown = [View(kind, number)(torch.arange(60), pictures.pixels) for number in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (shown[one] != shown[other]).flatten(1).any(1).sum() > 40
    same = pictures.pixels[:1].expand(60, -1, -1, -1)
    assert len(View(kind)(torch.arange(60), same).unique(dim=0)) > 10


def test_the_plain_view_is_the_picture(pictures):
    batch = next(view_batches(pictures, range(9), 9, view=View()))
    assert torch.equal(batch.images, normalise(pictures.pixels[:9]))


def test_a_shifted_picture_is_a_window_of_its_padded_self(pictures):
    seen = set()
    for number in range(7):
        shown = View("shift", number)(torch.arange(60), pictures.pixels)
        for original, picture in zip(pictures.pixels, shown, strict=True):
            wide = pad(original, (3, 3, 3, 3))
            windows = {(y, x): wide[:, y : y + 24, x : x + 28] for y in range(7) for x in range(7)}
            places = [place for place, window in windows.items() if torch.equal(window, picture)]
            assert len(places) == 1
            seen.add(places[0])
    assert len(seen) == 49  # 420 draws from 49 places


def test_a_resized_crop_is_that_of_torchvision(pictures):
    ids = torch.arange(60)
    for picture, box, original in zip(
        View("resized_crop", 2)(ids, pictures.pixels), crops(ids, 2, SIZE).tolist(), pictures.pixels, strict=True
    ):
        assert torch.equal(picture, resized_crop(original, *box, SIZE, interpolation=3, antialias=True))


@pytest.mark.parametrize("size", [(224, 224), (100, 120), (100, 150), (150, 100)])
def test_crops_are_drawn_as_torchvision_draws_them(size):
    ours = crops(torch.arange(4000), 0, size).double()
    torch.manual_seed(0)
    picture = torch.zeros(1, *size)
    draws = [RandomResizedCrop.get_params(picture, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = torch.tensor(draws).double()
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()
    # Five standard errors of the difference of two means; where a side never varies, both must agree on it.
    error = 5 * (2 / 4000) ** 0.5 * theirs.std(0)
    assert ((ours - theirs).mean(0).abs() <= error).all()
    assert (ours.std(0) - theirs.std(0)).abs().max() <= 0.1 * theirs.std(0).max()


@pytest.mark.parametrize(
    "settings, numbers",
    [
        ({"augment": "shift"}, [0, 1, 2, 3, 4]),
        ({"augment": "resized_crop", "views": 2}, [0, 1, 0, 1, 0]),
        ({"augment": "shift", "views": 9}, [0, 1, 2, 3, 4]),
        ({}, [0, 0, 0, 0, 0]),
    ],
)
def test_epochs_go_through_the_views_in_turn(settings, numbers):
    config = TrainConfig(epochs=5, **settings)
    assert [config.view_number(epoch) for epoch in range(1, 6)] == numbers
    assert config.num_views == len(set(numbers))


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_views_without_effect_are_refused(augment):
    with pytest.raises(ValueError, match=r"views .*'shift' or 'resized_crop', got"):
        TrainConfig(augment=augment, views=2)
