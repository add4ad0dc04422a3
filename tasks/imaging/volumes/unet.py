"""A compact 3-D U-Net whose blocks see five shapes of neighbourhood at once (Khosravi et al. 2025, XOCT)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNELS = ((3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3))
GROUPS = 4  # of group norm; the paper has 8 at 64 and more channels
REDUCTION = 4  # of channel attention; the paper has 8


class MultiScale(nn.Module):
    """Five branches of half the width, fused by a 1x1x1 convolution, weighted channel by channel.

    The branches are a cube, a line along each axis, and a depthwise 5x5x5 convolution.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branches = nn.ModuleList(nn.Conv3d(in_channels, half, kernel, padding="same") for kernel in KERNELS)
        self.branches.append(
            nn.Sequential(
                nn.Conv3d(in_channels, in_channels, 5, padding=2, groups=in_channels), nn.Conv3d(in_channels, half, 1)
            )
        )
        self.fuse = nn.Conv3d(5 * half, channels, 1)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(channels, max(1, channels // REDUCTION), 1),
            nn.ReLU(),
            nn.Conv3d(max(1, channels // REDUCTION), channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (b, channels, z, h, w)."""
        fused = functional.relu(self.norm(self.fuse(torch.cat([branch(x) for branch in self.branches], 1))))
        weighted: Tensor = fused * self.attention(fused)
        return weighted


class UNet3d(nn.Module):
    """An encoder and a decoder of multi-scale blocks; skips are added, the weaker the deeper: 1, .., 1 / levels.

    Sides of volumes must be multiples of 2^(levels - 1).
    """

    def __init__(self, width: int = 8, levels: int = 3) -> None:
        super().__init__()
        if width % GROUPS or levels < 2:
            raise ValueError(f"width must be a multiple of {GROUPS} and levels at least 2, got {width} and {levels}")
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            MultiScale(before, after) for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(MultiScale(shallow, shallow) for _, shallow in pairs)
        self.head = nn.Conv3d(width, 1, 1)
        self.side = 2 ** (levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Volumes (b, 1, z, h, w) in (-1, 1), of volumes of that shape."""
        if any(size % self.side for size in x.shape[2:]):
            raise ValueError(f"sides of volumes must be multiples of {self.side}, got {tuple(x.shape[2:])}")
        features = [x]
        for level, block in enumerate(self.down):
            features.append(block(functional.avg_pool3d(features[-1], 2) if level else features[-1]))
        x = features.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            strength = 1 - (len(features) - 2) / len(self.down)  # 1 at full resolution
            x = merge(up(x) + strength * features.pop())
        return torch.tanh(self.head(x))
