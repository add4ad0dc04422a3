"""Pairs of features whose change is known, read by a small autoencoder and two random heads."""

import torch

from amalgam.tasks.clip.zero_shot import Head
from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.explain.explanation import Explainer, Explanation
from amalgam.tasks.sae.autoencoder import SparseAutoencoder
from amalgam.tasks.sae.rules import TopK
from tests.tasks.sae.planted import WIDTH, info, planted
from tests.tasks.sae.test_codes import autoencoder

NUM_CLASSES, NUM_DOMAINS = 5, 3


def head(seed: int) -> Head:
    layer, draw = Head(WIDTH, NUM_CLASSES), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(10 * torch.randn(layer.weight.shape, generator=draw))
        layer.bias.copy_(torch.randn(NUM_CLASSES, generator=draw))
    return layer


RULE = TopK(k=3)


def random_comparison(rule=RULE) -> Comparison:
    return Comparison(autoencoder(rule).double(), head(1), head(2))  # in float32 codes depend on the batch


def drifted(num_images=60, size=0.5):
    """Features before and after, classes and domains."""
    draw = torch.Generator().manual_seed(0)
    before = 3 * planted(num_images)[0]
    after = before + size * torch.randn(before.shape, generator=draw)
    classes = torch.randint(NUM_CLASSES, (num_images,), generator=draw)
    return before, after, classes, torch.arange(num_images) % NUM_DOMAINS


def random_batch(rule=RULE, **size) -> Compared:
    return random_comparison(rule).of(*drifted(**size))


def explained(by: Comparison, pairs, batch_size=1000, top_n=4, embeddings=None) -> Explanation:
    """The explanation of features before and after, classes and domains."""
    explainer = Explainer(by, NUM_DOMAINS, top_n)
    embeddings = pairs[0] if embeddings is None else embeddings
    for *batch, seen in zip(*(part.split(batch_size) for part in (*pairs, embeddings)), strict=True):
        explainer.update(by.of(*batch), seen)
    return explainer.result()


def axes_autoencoder() -> SparseAutoencoder:
    """One whose atoms are the axes: the codes of a feature with two positive entries are those entries."""
    sae = SparseAutoencoder(info(TopK(k=2), num_latents=WIDTH))
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(WIDTH))
        sae.decoder.copy_(torch.eye(WIDTH))
    return sae


def axes_comparison() -> Comparison:
    """Class c is read off axis c alone, with the same head before and after."""
    one = Head(WIDTH, NUM_CLASSES)
    with torch.no_grad():
        one.weight.copy_(10 * torch.eye(NUM_CLASSES, WIDTH))
        one.bias.zero_()
    return Comparison(axes_autoencoder(), one, one)


LOST, GAINED, VICTIM = 2, 4, 2  # class 2 is told by axis 2; fine-tuning shows axis 4, that of class 4, in its place


def planted_change(num_images=200):
    """Every image shows its class and a common axis; fine-tuning swaps one axis for another in one class."""
    classes, rows = torch.arange(num_images) % NUM_CLASSES, torch.arange(num_images)
    before = torch.zeros(num_images, WIDTH)
    before[rows, classes] = 1.0
    before[:, 10] = 0.5
    after = before.clone()
    after[classes == VICTIM, LOST], after[classes == VICTIM, GAINED] = 0.0, 1.0
    return before, after, classes, rows % NUM_DOMAINS
