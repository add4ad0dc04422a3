"""Fifteen corruptions, each stronger with its severity, the same for an image in any batch and at any time."""

from dataclasses import replace

import pytest
import torch

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import CORRUPTIONS, SEVERITIES, Corrupted, Stored, StyledPairs
from amalgam.tasks.data.synthetic.corruptions import OF_32, OF_224, corrupted, corrupted_images, settings_of
from amalgam.tasks.data.synthetic.distortions import DISTORTIONS
from amalgam.tasks.data.synthetic.filters import blurred, clouds, defocused

PAIRS = StyledPairs(glyphs=DataSpec(name="digits"), num_images=30, size=20, style="texture")


def pictures(side, count):
    """Colours at every scale, as photographs have them, and a shape with a sharp edge."""
    colours = torch.cat([clouds(RandomNumbers(torch.arange(count), seed), side, 1.5) for seed in range(3)], 1)
    shape = clouds(RandomNumbers(torch.arange(count), 3), side, 3.0) > 0.6
    return (torch.where(shape, 0.8 * (1 - colours), colours) * 255).round().to(torch.uint8)


SMALL, LARGE = pictures(32, 30), pictures(112, 3)


def distortion(pixels, corruption, severity):
    changed = corrupted(pixels, torch.arange(len(pixels)), corruption, severity, 0)
    assert changed.dtype == torch.uint8 and changed.shape == pixels.shape
    return (changed.double() - pixels.double()).square().mean().item()


def test_every_name_has_a_function_and_five_settings_of_both_sizes():
    assert tuple(DISTORTIONS) == tuple(OF_32) == tuple(OF_224) == CORRUPTIONS and len(CORRUPTIONS) == 15
    assert all(len(table[kind]) == len(SEVERITIES) for table in (OF_32, OF_224) for kind in CORRUPTIONS)


@pytest.mark.parametrize("pixels", [SMALL, LARGE, pictures(8, 30)], ids=["small", "large", "tiny"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_distortion_grows_with_severity(corruption, pixels):
    distortions = [distortion(pixels, corruption, severity) for severity in SEVERITIES]
    assert distortions == sorted(distortions) and distortions[-1] > 0


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_any_batch(corruption):
    ids = torch.arange(30)
    whole = corrupted(SMALL, ids, corruption, 3, 7)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(corrupted(SMALL[order], order, corruption, 3, 7), whole[order])
    assert torch.equal(
        torch.cat([corrupted(SMALL[i : i + 1], ids[i : i + 1], corruption, 3, 7) for i in range(30)]), whole
    )


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_grey_pictures_and_other_shapes_are_corrupted_too(corruption):
    grey = SMALL[:4, :1, :, :24]
    assert corrupted(grey, torch.arange(4), corruption, 3, 0).shape == (4, 1, 32, 24)


def test_shot_noise_has_the_mean_and_variance_of_poisson_events():
    for value, photons in ((0.02, 50), (0.3, 12), (0.5, 60)):
        level = round(value * 255)
        flat = torch.full((40, 3, 32, 32), level / 255)
        events = DISTORTIONS["shot_noise"](flat, RandomNumbers(torch.arange(40), 0), photons).double() * photons
        mean, count = level / 255 * photons, events.numel()
        assert abs(events.mean() - mean) < 4 * (mean / count) ** 0.5 + 0.01
        assert abs(events.var() / mean - 1) < 0.03


def test_blurs_keep_flat_pictures_and_spread_a_point_as_their_kernels_do():
    flat, point = torch.full((1, 1, 41, 41), 0.5), torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1
    place = torch.arange(41.0) - 20
    for result, variance in ((blurred(point, 2.0), 4.0), (defocused(point, 6.0), 9.0)):
        torch.testing.assert_close((result[0, 0].sum(0) * place**2).sum(), torch.tensor(variance), rtol=0.02, atol=0)
    for blur in (blurred, defocused):
        torch.testing.assert_close(blur(flat, 3.0), flat)


def test_contrast_keeps_the_mean_and_brightness_the_hue():
    flat = SMALL.double().mean((2, 3))
    torch.testing.assert_close(
        corrupted(SMALL, torch.arange(30), "contrast", 3, 0).double().mean((2, 3)), flat, atol=0.5, rtol=0
    )
    one = torch.tensor([100, 40, 20], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    brighter = corrupted(one, torch.tensor([0]), "brightness", 4, 0)[0, :, 0, 0]
    assert brighter.tolist() == [151, 60, 30]  # the value grows by 0.2 x 255, the rest in proportion


def test_lengths_follow_the_side():
    assert settings_of("defocus_blur", 5, 448) == (20.0,) and settings_of("motion_blur", 1, 16) == (3.0, 0.5)
    assert settings_of("gaussian_noise", 1, 16) == (0.04,)


def test_corrupted_sources_are_read_lazily_and_know_what_they_are():
    source = Corrupted(source=PAIRS, corruption="gaussian_noise", severity=2, seed=3)
    images, clean = open_source(source), open_source(PAIRS)
    assert torch.equal(images.labels, clean.labels) and images.shape == clean.shape
    some = torch.tensor([4, 2])
    assert torch.equal(images.batch(some), corrupted(clean.batch(some), some, "gaussian_noise", 2, 3))
    others = [source.model_copy(update=update) for update in ({}, {"severity": 3}, {"seed": 4}, {"corruption": "fog"})]
    assert len({open_source(one).fingerprint for one in others}) == 4
    assert open_source(source).fingerprint == images.fingerprint


def test_stored_sets_are_corrupted_and_what_is_no_picture_is_refused():
    stored = Corrupted(source=Stored(data=DataSpec(name="digits")), corruption="pixelate", severity=5)
    assert open_source(stored).batch(torch.arange(3)).shape == (3, 1, 8, 8)
    short = in_memory(torch.zeros(2, 3, 4, 16, dtype=torch.uint8), torch.arange(2), ("a", "b"))
    with pytest.raises(ValueError, match=r"8 pixels.* 3 channels of 4 x 16"):
        corrupted_images(short, "fog", 1, 0)


def test_groups_are_those_of_the_images():
    groups = torch.tensor([1, 0, -1])
    plain = in_memory(SMALL[:3], torch.arange(3), ("a", "b", "c"))
    grouped = replace(plain, groups=groups, group_names=("x", "y"))
    foggy = corrupted_images(grouped, "fog", 1, 0)
    assert torch.equal(foggy.groups, groups) and foggy.group_names == ("x", "y")
    alone = corrupted_images(in_memory(SMALL, torch.zeros(len(SMALL)).long(), ("a",)), "fog", 1, 0)
    assert alone.groups is None and alone.group_names == ()
