"""Styles draw an image from its number, the seed and the style alone, and each does what it is called."""

import pytest
import torch

from amalgam.tasks.data.sources import SEEN_STYLES, UNSEEN_STYLES
from amalgam.tasks.data.synthetic.styles import STYLES, in_style

IDS = torch.arange(40)
CANVASES = torch.zeros(40, 28, 28)
CANVASES[:, 8:20, 6:10] = 1.0
CANVASES[::2, 8:12, 6:22] = 0.8


def drawn(style, ids=IDS, seed=0):
    return in_style(style, CANVASES[ids], ids, seed)


def test_every_name_has_a_style():
    assert tuple(STYLES) == SEEN_STYLES + UNSEEN_STYLES


@pytest.mark.parametrize("style", STYLES)
def test_pictures_do_not_depend_on_batch_or_order(style):
    whole = drawn(style)
    assert whole.dtype == torch.uint8 and whole.shape == (40, 3, 28, 28)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn(style, order), whole[order])
    assert torch.equal(torch.cat([drawn(style, IDS[i : i + 1]) for i in range(40)]), whole)


@pytest.mark.parametrize("style", ["colour", "texture", "noisy", "occluded", "rotated", "low_contrast"])
def test_another_seed_draws_another_picture_of_the_same_canvas(style):
    one, two = drawn(style), drawn(style, seed=1)
    assert (one != two).any() and torch.equal(one, drawn(style))


@pytest.mark.parametrize("size", [8, 16, 20, 32, 64])
@pytest.mark.parametrize("style", STYLES)
def test_ink_shows_at_every_size(style, size):
    """A filled disc and an empty canvas give pictures that are further apart than noise is."""
    line = (torch.arange(size) + 0.5) / size - 0.5
    disc = ((line[:, None] ** 2 + line[None, :] ** 2) < 0.1).float().expand(20, -1, -1)
    difference = in_style(style, disc, IDS[:20], 0).float() - in_style(style, 0 * disc, IDS[:20], 0).float()
    assert difference.mean(0).abs().max() > 25


def test_negative_is_the_complement_of_plain():
    assert torch.equal(drawn("negative"), 255 - drawn("plain"))


def test_bold_ink_covers_the_plain_ink_and_outlines_leave_it_empty():
    plain = drawn("plain")
    assert (drawn("bold") >= plain).all() and drawn("bold").float().mean() > 1.3 * plain.float().mean()
    assert not drawn("outline")[plain == 255].any() and drawn("outline").any()


def test_blurring_keeps_the_middle_of_mass():
    def middle(pictures):
        ink = pictures[:, 0].double().sum(1)
        return (ink * torch.arange(28)).sum(1) / ink.sum(1)

    torch.testing.assert_close(middle(drawn("blurry")), middle(drawn("plain")), atol=0.1, rtol=0)


def test_pixelated_pictures_are_made_of_blocks():
    blocks = drawn("pixelated")[:, :, :27, :27].unfold(2, 3, 3).unfold(3, 3, 3).flatten(4)
    assert torch.equal(blocks.amax(-1), blocks.amin(-1))


def test_ink_and_paper_of_low_contrast_are_close_and_those_of_colour_are_not_grey():
    low = drawn("low_contrast").float().flatten(1)
    assert (low.amax(1) - low.amin(1)).max() <= 0.15 * 255 + 1
    channels = drawn("colour").float().flatten(2)
    assert (channels.amax(1) - channels.amin(1)).amax(1).min() > 40
