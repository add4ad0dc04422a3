"""A CLIP of width 32 and a small autoencoder: real objects that take no time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.models.clip import Clip, build_clip
from tasks.models.clip_spec import ClipSpec

WORDS = ("a", "photo", "of", "the", "digit", "zero", "one", "two", "three", "bold", "thin")
CLASSES = ("zero", "one", "two", "three")
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "width": 32, "heads": 2, "layers": 1},
}


def spec(**settings) -> ClipSpec:
    return ClipSpec(**{"architecture": ARCHITECTURE, "words": WORDS} | settings)


def tiny_clip(seed: int = 0) -> Clip:
    return build_clip(spec(seed=seed))


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class SmallCodes:
    indices: Tensor
    values: Tensor
    num_latents: int

    def dense(self) -> Tensor:
        return self.values.new_zeros(len(self.values), self.num_latents).scatter(1, self.indices, self.values)


class SmallTopK(torch.nn.Module):
    """The autoencoder of section 3.1 of the method, in a dozen lines: k signed largest, no bias but the shared one."""

    def __init__(self, width: int = 16, num_latents: int = 64, k: int = 4, normalised: bool = True, seed: int = 0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.decoder = torch.nn.Parameter(torch.randn(num_latents, width, generator=draw))
        self.decoder.data /= self.decoder.norm(dim=1, keepdim=True)
        self.encoder = torch.nn.Parameter(self.decoder.detach().clone())
        self.bias = torch.nn.Parameter(torch.randn(width, generator=draw) / 10)
        self.k, self.normalised = k, normalised

    def pre_activations(self, features: Tensor) -> Tensor:
        return (features - self.bias) @ self.encoder.T

    def encode(self, features: Tensor) -> SmallCodes:
        values, indices = self.pre_activations(features).topk(self.k, dim=-1)
        return SmallCodes(indices, values, len(self.decoder))

    def decode(self, codes: SmallCodes) -> Tensor:
        return codes.dense() @ self.decoder + self.bias
