"""Which part of an image a latent reads: the one that it was planted to read."""

import pytest
import torch

from amalgam.tasks.explain.parts import outlined, part_masks, read_part


def image(seed=0):
    return torch.rand(3, 24, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("height, width", [(24, 16), (5, 7), (64, 64)])
def test_masks_partition_the_pixels(height, width):
    masks = part_masks(height, width, 6)
    assert torch.equal(masks.sum(0), torch.ones(height, width, dtype=torch.long)) and masks.flatten(1).any(1).all()


@pytest.mark.parametrize("part", range(6))
def test_a_latent_that_reads_one_part_is_found_there(part):
    mask = part_masks(24, 16, 6)[part]

    def activations(images):
        variance = images[:, :, mask].var(dim=(1, 2))
        return torch.stack([torch.ones(len(images)), variance], 1)

    found = read_part(activations, image(), latent=1)
    assert torch.equal(found.mask, mask) and found.share > 0.9


def test_a_latent_that_reads_nothing_loses_nothing():
    assert read_part(lambda images: torch.ones(len(images), 2), image(), latent=0).share == 0


def test_an_inactive_latent_is_refused():
    with pytest.raises(ValueError, match="latent 1"):
        read_part(lambda images: torch.zeros(len(images), 2), image(), latent=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_border_of_a_part_is_drawn(channels):
    pixels = torch.zeros(channels, 8, 8, dtype=torch.uint8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 2:6] = True
    drawn = outlined(pixels, mask, (255, 0, 9))
    border = mask.clone()
    border[3:5, 3:5] = False
    assert torch.equal((drawn == torch.tensor([255, 0, 9])[:, None, None]).all(0) & border, border)
    assert (drawn[:, ~border] == 0).all()
