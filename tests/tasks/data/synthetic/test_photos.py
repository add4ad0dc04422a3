"""Photos come once each, in an order of their seed, and every style does to them what it is called."""

import numpy as np
import pytest
import torch

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.opening import open_renderer, open_source
from amalgam.tasks.data.sources import Corrupted, MixedStyles, StyledPhotos
from amalgam.tasks.data.synthetic.photo_styles import PHOTO_STYLES, in_photo_style
from amalgam.tasks.data.synthetic.renderer import draw_in

COUNT, CLASSES = 24, 4
IDS = torch.arange(COUNT)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> StyledPhotos:
    """Smooth pictures in colour, sorted by class, of a part train and another."""
    folder = tmp_path_factory.mktemp("photos")
    for number, part in enumerate(("train", "val")):
        coarse = np.random.default_rng(number).uniform(0, 255, (COUNT, 3, 4, 4))
        smooth = torch.nn.functional.interpolate(torch.tensor(coarse), (32, 32), mode="bilinear").byte()
        np.savez(
            folder / f"{part}.npz", images=smooth.movedim(1, 3).numpy(), labels=np.arange(COUNT) * CLASSES // COUNT
        )
    return StyledPhotos(data=DataSpec(name=f"npz:{folder}"), num_images=COUNT)


def changed(photos, **settings) -> StyledPhotos:
    return StyledPhotos(**dict(photos) | settings)


def shown(photos, **settings):
    return open_source(changed(photos, **settings)).pixels


def test_every_photo_comes_once_and_a_longer_set_begins_with_the_shorter_one(photos):
    images = open_source(photos)
    assert len(images.pixels.flatten(1).unique(dim=0)) == COUNT
    assert images.labels.bincount().tolist() == [COUNT // CLASSES] * CLASSES
    assert torch.equal(shown(photos, num_images=5), images.pixels[:5])
    assert not torch.equal(shown(photos, seed=1), images.pixels)


def test_halves_share_no_photo_and_both_have_all_classes(photos):
    first, second = (open_source(changed(photos, half=half, num_images=COUNT // 2)) for half in ("first", "second"))
    assert len(torch.cat([first.pixels, second.pixels]).flatten(1).unique(dim=0)) == COUNT
    for half in (first, second):
        assert half.labels.bincount().tolist() == [COUNT // CLASSES // 2] * CLASSES


def test_parts_are_read_from_their_own_files(photos):
    both = torch.cat([shown(photos, split="train"), shown(photos, split="test")])
    assert len(both.flatten(1).unique(dim=0)) == 2 * COUNT


@pytest.mark.parametrize("style", PHOTO_STYLES)
def test_pictures_do_not_depend_on_batch_or_order(photos, style):
    renderer, whole = open_renderer(changed(photos, varied=True)), shown(photos, varied=True, style=style)
    assert whole.dtype == torch.uint8 and whole.shape == (COUNT, 3, 32, 32)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw_in(renderer, order, [style], 0 * order)[0], whole[order])


@pytest.mark.parametrize("style", PHOTO_STYLES)
def test_a_style_never_hides_which_photo_it_is(photos, style):
    """The nearest to a picture, among all photos in the same style with other chances, is mostly its own photo."""
    plain = shown(photos).float() / 255
    drawn = torch.stack([in_photo_style(style, plain, IDS, seed).float() for seed in range(5)])
    if style == "recoloured":
        drawn = drawn.sort(2).values
    drawn = drawn.flatten(2) - drawn.flatten(2).mean(2, keepdim=True)  # of any brightness
    distances = torch.cdist(drawn[0], drawn[1:]).amin(0)
    assert (distances.argmin(1) == IDS).float().mean() > 0.75


def test_photos_themselves_are_left_as_they_are(photos):
    stored = np.load(f"{photos.data.name.removeprefix('npz:')}/val.npz")["images"]
    ours = {picture.numpy().tobytes() for picture in shown(photos).movedim(1, 3)}
    assert ours == {picture.tobytes() for picture in stored}


def test_styles_are_what_they_are_called(photos):
    plain = shown(photos)
    assert torch.equal(shown(photos, style="negative"), 255 - plain)
    grey, sketch = shown(photos, style="grey"), shown(photos, style="sketch")
    assert all(torch.equal(each, each[:, :1].expand(-1, 3, -1, -1)) for each in (grey, sketch))
    assert len(shown(photos, style="posterised").unique()) == 4
    assert torch.equal(shown(photos, style="recoloured").sort(1).values, plain.sort(1).values)
    assert not (shown(photos, style="recoloured") == plain).flatten(1).all(1).any()
    blocks = shown(photos, style="pixelated")[:, :, :30, :30].unfold(2, 3, 3).unfold(3, 3, 3).flatten(4)
    assert torch.equal(blocks.amax(-1), blocks.amin(-1))
    low = shown(photos, style="low_contrast").float().flatten(1)
    assert (low.amax(1) - low.amin(1)).max() <= 0.15 * 255 + 1


def test_a_sketch_has_lines_where_brightness_jumps_and_paper_elsewhere():
    half = torch.zeros(1, 3, 16, 16)
    half[:, :, :, 8:] = 1.0
    line = in_photo_style("sketch", half, IDS[:1], 0)[0, 0]
    assert (line[:, 7:9] == 0).all() and (line[:, :7] == 255).all() and (line[:, 9:] == 255).all()


def test_varied_photos_come_again_otherwise(photos):
    more = open_source(changed(photos, varied=True, num_images=3 * COUNT))
    assert torch.equal(more.labels[:COUNT], more.labels[COUNT : 2 * COUNT])
    assert len(more.pixels.flatten(1).unique(dim=0)) > 2.5 * COUNT


def test_a_mixture_of_styles_and_corruptions_are_those_of_the_photos(photos):
    styles = ("photo", "sketch", "noisy")
    mixed = MixedStyles(pictures=photos, styles=styles)
    for place, style in enumerate(styles):
        assert torch.equal(open_source(mixed).pixels[place::3], shown(photos, style=style)[place::3])
    foggy = open_source(Corrupted(source=mixed, corruption="fog", severity=5))
    assert foggy.shape == (3, 32, 32) and not torch.equal(foggy.batch(IDS), open_source(mixed).pixels)


def test_what_there_is_not_is_refused(photos):
    with pytest.raises(ValueError, match=r"num_images is 25, .* 24"):
        open_source(changed(photos, num_images=25))
    with pytest.raises(ValueError, match="first half"):
        open_source(changed(photos, half="first"))
    with pytest.raises(ValueError, match=r"4 classes, .* 2 class_names"):
        open_source(changed(photos, class_names=("cat", "dog")))
    with pytest.raises(ValueError, match="did you mean 'sketch'"):
        changed(photos, style="skech")
    with pytest.raises(ValueError, match=r"or a folder of train\.npz"):
        open_source(changed(photos, data=DataSpec(name=f"{photos.data.name}/none")))
