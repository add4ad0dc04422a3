"""Which part of an image a latent reads: the part without which the latent loses most of its activation.

Parts are those of `tasks.explain.parts` on a grid of patches. Hiding a part means giving it the image's mean colour, so
any encoder can be asked, with or without tokens of its own (occlusion, Zeiler and Fergus 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.tasks.explain.parts import grid_points, parts_of

GRID = 8  # patches along a side that parts are made of
NUM_PARTS = 6


@dataclass(frozen=True)
class ReadPart:
    """One part of an image."""

    mask: Tensor
    """(height, width) of bool."""
    share: float
    """Share of the latent's activation that is lost without the part; at most 1 where it stays active, 0 at least."""


@torch.no_grad()
def read_part(
    activations: Callable[[Tensor], Tensor], image: Tensor, latent: int, num_parts: int = NUM_PARTS, seed: int = 0
) -> ReadPart:
    """The part of an image (channels, height, width) that a latent reads most.

    `activations` maps images (n, channels, height, width) to activations (n, num_latents). Raises ValueError if the
    latent is not active in the image.
    """
    masks = part_masks(image.shape[1], image.shape[2], num_parts, seed).to(image.device)
    mean = image.mean((1, 2), keepdim=True)
    hidden = torch.where(masks[:, None], mean, image)
    whole, *without = activations(torch.cat([image[None], hidden]))[:, latent].tolist()
    if whole <= 0:
        raise ValueError(f"latent {latent} is not active in this image: no part of it is read")
    lost = [max(0.0, whole - value) / whole for value in without]
    most = max(range(len(lost)), key=lost.__getitem__)
    return ReadPart(masks[most].cpu(), min(1.0, lost[most]))


def part_masks(height: int, width: int, num_parts: int, seed: int = 0) -> Tensor:
    """A partition (parts, height, width) of an image's pixels, as bool."""
    rows, columns = min(GRID, height), min(GRID, width)
    cells = parts_of(grid_points(rows, columns), num_parts, torch.Generator().manual_seed(seed)).cells
    pixels = interpolate(cells.reshape(1, 1, rows, columns).float(), (height, width), mode="nearest")[0, 0].long()
    return torch.stack([pixels == part for part in range(int(cells.max()) + 1)])


def outlined(pixels: Tensor, mask: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """The image, uint8 (channels, height, width), as RGB with the border of a part drawn inside of it."""
    around = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1))
    inner = -torch.nn.functional.max_pool2d(-around, 3, stride=1)[0, 0] > 0
    border = mask & ~inner
    rgb = pixels.expand(3, -1, -1).clone()
    rgb[:, border] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return rgb
