"""Pairs are drawn from their digits and their number alone, and are called what they show."""

import numpy as np
import pytest
import torch

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.opening import open_labelled, open_source
from amalgam.tasks.data.sources import PAIR_NAMES, LabelledConfig, StyledPairs, without_held_out
from amalgam.tasks.data.synthetic.pairs import Glyphs, canvases_of, open_glyphs

DIGITS = DataSpec(name="digits")
PAIRS = StyledPairs(glyphs=DIGITS, num_images=300, size=20)


def variant(**settings):
    return PAIRS.model_copy(update=settings)


@pytest.fixture
def save_glyphs(tmp_path):
    """Ten uniform squares, the brighter the higher their value, as arrays of one's own."""

    def save(shape, num_classes=10):
        values = np.arange(num_classes, dtype=np.uint8)
        pixels = np.broadcast_to((25 * values).reshape(-1, *(1 for _ in shape)), (num_classes, *shape))
        arrays = {"images": pixels, "labels": values}
        np.savez(tmp_path / "g.npz", **{f"{part}_{k}": v for part in ("train", "test") for k, v in arrays.items()})
        return DataSpec(name=f"npz:{tmp_path / 'g.npz'}")

    return save


def test_both_digits_stand_where_the_name_says():
    glyphs = Glyphs(
        (20 + 20 * torch.arange(10)).to(torch.uint8).view(10, 1, 1, 1).expand(-1, -1, 12, 12), torch.arange(10), 0.0
    )
    chosen = torch.randint(10, (500, 2), generator=torch.Generator().manual_seed(0))
    canvases, labels = canvases_of(glyphs, chosen, torch.arange(500), 0, 20)
    shown = ((canvases[:, 0, 10, [5, 15]] * 255 - 20) / 20).round().long()
    assert torch.equal(shown[:, 0] * 10 + shown[:, 1], labels)
    assert PAIR_NAMES[42] == "four two" and len(set(PAIR_NAMES)) == 100
    assert len(labels.unique()) > 90


def test_a_longer_set_begins_with_the_shorter_one():
    long, short = open_source(PAIRS), open_source(variant(num_images=7))
    assert torch.equal(long.batch(torch.arange(7)), short.batch(torch.arange(7)))
    assert torch.equal(long.labels[:7], short.labels) and long.shape == (3, 20, 20)


def test_equal_sources_are_equal_images_and_seeds_draw_others():
    assert open_source(PAIRS).fingerprint == open_source(PAIRS).fingerprint
    assert (
        len({open_source(variant(**s)).fingerprint for s in ({}, {"seed": 1}, {"style": "bold"}, {"half": "first"})})
        == 4
    )


def test_styles_of_one_seed_show_the_same_digits_at_the_same_places():
    plain, negative = open_source(PAIRS), open_source(variant(style="negative"))
    assert torch.equal(plain.labels, negative.labels)
    assert torch.equal(plain.pixels, 255 - negative.pixels)


def test_halves_share_no_digit_and_make_up_the_whole():
    first, second, whole = (open_glyphs(variant(half=half), None).pixels for half in ("first", "second", "all"))
    assert torch.equal(torch.cat([first, second]), whole)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_digit_is_on_both_sides_of_a_split_nor_in_unlabelled_pictures(seed):
    labelled = LabelledConfig.separable(variant(num_images=2000, half="second", split="train"), 0.25, seed)
    images, kept, held_out = open_labelled(labelled)
    trained, judged = images.sources[kept].unique(), images.sources[held_out].unique()
    assert not set(trained.tolist()) & set(judged.tolist())
    assert len(held_out) == 500 and len(judged) == pytest.approx(0.25 * (len(trained) + len(judged)), abs=1)
    # The stored digits themselves, not only their numbers.
    glyphs = open_glyphs(labelled.source, None).pixels.flatten(1)
    assert torch.cdist(glyphs[trained].float(), glyphs[judged].float()).min() > 0
    others = open_source(without_held_out(labelled.source.model_copy(update={"seed": 9}), labelled))
    assert not set(others.sources.unique().tolist()) & set(judged.tolist())


@pytest.mark.parametrize("shape", [(16, 16), (28, 28), (32, 32, 3)])
def test_digits_of_any_kind_are_placed(save_glyphs, shape):
    images = open_source(PAIRS.model_copy(update={"glyphs": save_glyphs(shape), "size": 28}))
    assert images.shape == (3, 28, 28) and (images.mean, images.std) == (0.5, 0.5)
    expected = 25 * torch.stack([images.labels // 10, images.labels % 10], 1)
    assert (images.pixels[:, 0, 14, [7, 21]].long() - expected).abs().max() <= 1


def test_cutting_a_margin_enlarges_the_digits():
    small, large = open_source(PAIRS), open_source(variant(margin=0.125))
    assert large.pixels.float().mean() > 1.2 * small.pixels.float().mean()


def test_what_cannot_be_paired_is_refused(save_glyphs):
    with pytest.raises(ValueError, match="style 'bold'"):
        open_source(PAIRS.model_copy(update={"glyphs": save_glyphs((32, 32, 3)), "style": "bold"}))
    with pytest.raises(ValueError, match="7 classes"):
        open_source(PAIRS.model_copy(update={"glyphs": save_glyphs((8, 8), 7)}))
