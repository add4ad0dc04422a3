"""A mixture shows each image in one of several styles, as the set of that style shows it."""

import pytest
import torch

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import SEEN_STYLES, MixedStyles, StyledPairs

PAIRS = StyledPairs(glyphs=DataSpec(name="digits"), num_images=25, size=16)


@pytest.mark.parametrize("label", ["class", "style"])
def test_a_mixture_is_made_of_the_sets_of_its_styles(label):
    mixed = open_source(MixedStyles(pictures=PAIRS, styles=SEEN_STYLES, label=label))
    assert len(mixed) == PAIRS.num_images
    for place, style in enumerate(SEEN_STYLES):
        own = open_source(PAIRS.model_copy(update={"style": style}))
        ids = torch.arange(place, PAIRS.num_images, len(SEEN_STYLES))
        assert torch.equal(mixed.batch(ids), own.batch(ids))
        expected = own.labels[ids] if label == "class" else torch.full_like(ids, place)
        assert torch.equal(mixed.labels[ids], expected)


def test_a_mixture_is_of_known_and_different_styles():
    with pytest.raises(ValueError, match="did you mean 'blurry'"):
        MixedStyles(pictures=PAIRS, styles=("plain", "blury"))
    with pytest.raises(ValueError, match=r"styles .*got"):
        MixedStyles(pictures=PAIRS, styles=("plain", "plain"))


def bound_to(share, count=4000):
    pictures = StyledPairs(glyphs=DataSpec(name="digits"), num_images=count, size=8)
    return open_source(MixedStyles(pictures=pictures, styles=("plain", "negative", "bold", "noisy"), bound=share))


@pytest.mark.parametrize("share", [0.25, 0.9, 1.0])
def test_a_share_of_the_pictures_is_in_the_style_of_their_class(share):
    images = bound_to(share)
    own, shown = images.groups // 4, images.groups % 4
    assert torch.equal(own, images.labels // 25)
    assert (own == shown).double().mean().item() == pytest.approx(share, abs=0.03)
    assert images.group_names[1] == "plain in negative" and len(images.group_names) == 16
    if share < 1:  # the others are in each other style alike
        counts = torch.bincount((shown - own)[own != shown] % 4)[1:]
        assert counts.max() < 1.4 * counts.min()


def test_bound_pictures_are_shown_in_the_style_of_their_group():
    images = bound_to(0.9, 200)
    for place, style in enumerate(("plain", "negative", "bold", "noisy")):
        shown = torch.nonzero(images.groups % 4 == place)[:, 0]
        own_set = open_source(StyledPairs(glyphs=DataSpec(name="digits"), num_images=200, size=8, style=style))
        assert torch.equal(images.batch(shown), own_set.batch(shown)) and len(shown) > 10
