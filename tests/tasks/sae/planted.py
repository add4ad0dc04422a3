"""Features made of few atoms of a known dictionary."""

import torch

from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo
from amalgam.tasks.sae.rules import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK

WIDTH, NUM_ATOMS, ACTIVE = 16, 24, 2
ABOUT = FeatureInfo(width=WIDTH, backbone="planted")
RULES = (
    *(TopK(k=ACTIVE), BatchTopK(k=ACTIVE), JumpReLU(target_l0=ACTIVE), Matryoshka(k=ACTIVE, prefixes=(0.5, 1.0))),
    *(BatchTopK(k=ACTIVE, prefixes=(0.5, 1.0)), ReLU(l1=0.8), Gated(l1=0.8)),
)


def planted(num_examples=4096, seed=1234):
    """Unit features (num_examples, WIDTH), and the atoms they are made of (NUM_ATOMS, WIDTH)."""
    generator = torch.Generator().manual_seed(seed)
    atoms = unit_norm(torch.randn(NUM_ATOMS, WIDTH, generator=generator))
    chosen = torch.rand(num_examples, NUM_ATOMS, generator=generator).topk(ACTIVE).indices
    strengths = 0.5 + torch.rand(num_examples, ACTIVE, 1, generator=generator)
    return unit_norm((strengths * atoms[chosen]).sum(1)), atoms


def info(rule, num_latents=64, **about):
    """What an autoencoder on planted features is."""
    return SAEInfo(**ABOUT.model_dump() | about, num_latents=num_latents, sparsity=rule)
