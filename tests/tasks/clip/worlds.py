"""A CLIP of width 32 and a small autoencoder: real objects that take no time."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.pixels import Images, in_memory
from amalgam.tasks.models.clip import Clip, build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.sae.codes import Codes

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


def four_digits() -> Images:
    """The first four digits of scikit-learn's as colour pictures of 16 x 16."""
    small = load(DataSpec(name="digits"), "train")
    keep = small.labels < len(CLASSES)
    pixels = small.batch(keep.nonzero()[:, 0]).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat(1, 3, 1, 1)
    return in_memory(pixels, small.labels[keep], CLASSES)


def write_pictures(folder: Path, classes: Sequence[str], count: int) -> None:
    """Folders train/CLASS and test/CLASS of `count` pictures of noise, each class brighter in one channel."""
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (20, 24, 3), dtype=np.uint8)
                pixels[:, :, label % 3] += 150
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


class SmallTopK(torch.nn.Module):
    """The autoencoder of section 3.1 of the method, in a dozen lines: the k signed largest, one shared bias."""

    def __init__(self, width: int = 16, num_latents: int = 64, k: int = 4, normalised: bool = True):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        atoms = torch.nn.functional.normalize(torch.randn(num_latents, width, generator=draw), dim=1)
        self.decoder, self.encoder = torch.nn.Parameter(atoms), torch.nn.Parameter(atoms.clone())
        self.bias = torch.nn.Parameter(torch.randn(width, generator=draw) / 10)
        self.k, self.info = k, SimpleNamespace(normalised=normalised)

    def pre_activations(self, features: Tensor) -> Tensor:
        return (features - self.bias) @ self.encoder.T

    def sparse(self, pre_activations: Tensor) -> Codes:
        values, indices = pre_activations.topk(self.k, dim=-1)
        return Codes(indices, values, len(self.decoder))
