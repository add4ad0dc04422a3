"""A world of photos is used as one of digits is: parts share no photo, and captions name what photos show."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from amalgam.tasks.clip.toy.captioned import open_world
from amalgam.tasks.clip.toy.captions import Captions
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.clip.toy.networks import small_clip
from amalgam.tasks.clip.toy.worlds import AnyWorld, PhotoSet
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import Corrupted
from amalgam.tasks.models.clip import build_clip

IDS = torch.arange(600)
NAMES = (("red fox", "blue whale"), ("tree", "house", "red car"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two sets of uniform photos, whose brightness is 20 times their place among all classes."""
    sets, first = [], 0
    for names in NAMES:
        path = tmp_path_factory.mktemp("set") / f"photos{len(names)}.npz"
        labels = np.arange(12) % len(names)
        pixels = np.broadcast_to((20 * (first + labels)).astype(np.uint8)[:, None, None, None], (12, 16, 16, 3))
        np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
        sets.append(PhotoSet(data=DataSpec(name=f"npz:{path}"), class_names=names))
        first += len(names)
    photos = WORLDS["photos"]
    captions = Captions(**dict(photos.captions) | {"class_names": sum(NAMES, ())})
    clip = small_clip(size=16, patch=8, width=32, layers=1, embed_dim=32, captions=captions)
    return type(photos)(**dict(photos) | {"sets": tuple(sets), "captions": captions, "clip": clip})


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_come_back_from_json(name):
    adapter = TypeAdapter(AnyWorld)
    assert adapter.validate_json(adapter.dump_json(WORLDS[name])) == WORLDS[name]


def test_captions_say_what_photos_of_both_sets_show(world):
    pictures, said = open_world(world.model_copy(update={"wrong_captions": 0.0}), None, 0).batch(IDS)
    named = [i for i, caption in enumerate(said) if "natural" in caption]
    places = [next(k for k, name in enumerate(sum(NAMES, ())) if said[i].endswith(name)) for i in named]
    assert torch.equal(pictures[named], (20 * torch.tensor(places)).byte()[:, None, None, None].expand(-1, 3, 16, 16))
    share = sum(place < len(NAMES[0]) for place in places) / len(named)
    assert abs(share - 1 / 2) < 4 * (0.25 / len(named)) ** 0.5


def test_half_of_the_photos_are_as_they_are_and_the_given_share_of_captions_is_wrong(world):
    honest, noisy = (
        open_world(world.model_copy(update={"wrong_captions": share}), None, 0).batch(IDS)[1] for share in (0.0, 0.25)
    )
    styled = [caption for caption in honest if "small" not in caption]
    natural = sum("natural" in caption for caption in styled) / len(styled)
    assert abs(natural - 1 / 2) < 4 * (0.25 / len(styled)) ** 0.5
    wrong = sum(one != two for one, two in zip(honest, noisy, strict=True)) / len(IDS)
    assert abs(wrong - 0.25) < 4 * (0.25 * 0.75 / len(IDS)) ** 0.5


def test_pictures_and_captions_do_not_depend_on_batch_or_order(world):
    stream = open_world(world, None, 0)
    pictures, said = stream.batch(IDS)
    order = torch.randperm(len(IDS), generator=torch.Generator().manual_seed(0))[:7]
    again, told = stream.batch(order)
    assert torch.equal(again, pictures[order]) and told == [said[i] for i in order.tolist()]


def test_no_photo_is_in_two_parts_and_other_sets_are_tested_under_their_own_names(world):
    pretraining, other = world.pretraining_sources(0)
    assert (pretraining.half, world.source("finetuning", 1).half, other.half) == ("first", "second", "all")
    assert {source.split for source in (pretraining, other, world.source("finetuning", 1))} == {"train"}
    (forgotten,) = world.other_classes(5, 0)
    assert forgotten.role == "forgetting" and forgotten.name == "photos3" and forgotten.class_names == NAMES[1]
    assert open_source(forgotten.source).class_names == NAMES[1]
    assert world.class_names == NAMES[0] == open_source(world.source("test", 12)).class_names


def test_real_worlds_have_the_same_six_sets_and_test_what_is_not_fine_tuned_on():
    worlds = {name: world for name, world in WORLDS.items() if name.startswith("real-")}
    every = {photos.name for photos in WORLDS["real-cifar10"].sets}
    for name, world in worlds.items():
        assert world.sets[0].name.lower() == name.removeprefix("real-") and len(every) == 6
        others = world.other_classes(4000, 0)
        assert {one.name for one in others} == every - {world.sets[0].name}
        assert all(one.source.num_images <= 4000 for one in others)
    texture = next(one for one in worlds["real-mnist"].other_classes(4000, 0) if one.name == "DTD10")
    assert texture.source.num_images == 1200  # all that the set has


def test_a_world_of_another_size_is_one_that_can_be_trained():
    for world in WORLDS.values():
        small = world.sized(pretrain_images=100, width=64)
        assert small.pretraining.train.epochs * small.pretraining.images_per_epoch == 100
        assert build_clip(small.clip).model.visual.conv1.weight.shape[0] == 64
        assert world.sized(None, None) == world
        twice = 2 * world.pretraining.images_per_epoch
        assert world.sized(twice, None).pretraining.train.epochs == 2
    with pytest.raises(ValueError, match=r"width.* 32, got 48"):
        WORLDS["photos"].sized(None, 48)


def test_what_is_no_world_is_refused(world):
    with pytest.raises(ValidationError, match="class names"):
        type(world)(**dict(world) | {"sets": world.sets[:1]})
    with pytest.raises(ValueError, match="@MARGIN"):
        world.natural(DataSpec(name="cifar10"), 0.1, 5, 0)


def test_photos_of_a_world_can_be_corrupted(world):
    assert len(open_source(Corrupted(source=world.source("test", 4), corruption="contrast", severity=2))) == 4
