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
