"""Names for latents: words whose text embeddings lie where the images of a latent do, and how often they are right.

Image and text features lie in two separate cones (the modality gap, Liang et al. 2022, arXiv:2203.02053); directions
are compared only after the mean of each has been subtracted. The direction of a latent is its atom, or that of the mean
feature of the images that activate it: words fit the latter far better, since an atom is only what the autoencoder adds
to what other active latents say already.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import binom
from torch import Tensor
from torch.nn.functional import normalize

from amalgam.tasks.clip.zero_shot import TextEncoder
from amalgam.tasks.explain.latents.table import LatentTable
from amalgam.tasks.explain.vocabulary import Concept, Truth

BEST = 3  # words kept for every latent
NUM_NULL = 2000  # meaningless directions that scores are compared with
LEVEL = 0.05  # share of meaningless directions that would get a name, and chance that a stated error rate is wrong
NUM_TRIED = 10  # thresholds
MOST, TIMES = 0.5, 2.0  # a latent shows a word if most images that fire it do, and at least twice as many as all do


@dataclass(frozen=True)
class Names:
    """The best words of each latent."""

    words: tuple[str, ...]
    """The vocabulary."""
    best: Tensor
    """Positions in it, best first, (num_latents, at most BEST)."""
    scores: Tensor
    """Their cosines."""
    threshold: float
    """Cosine from which on a word is a name: one that a share of LEVEL of meaningless directions exceeds, or one that
    was calibrated."""
    alive: Tensor
    """Latents that fire at all, (num_latents,)."""
    evidence: "Evidence | None" = None
    """By what the threshold was calibrated; None where it was not."""

    @property
    def named(self) -> Tensor:
        """Latents whose best word is near enough to be a name, (num_latents,)."""
        return self.alive & (self.scores[:, 0] >= self.threshold)

    def name(self, latent: int) -> str:
        """The best word of a latent, or "unnamed"."""
        return self.words[self.best[latent, 0]] if self.named[latent] else "unnamed"


@dataclass(frozen=True)
class Evidence:
    """The names that were judged to find a threshold."""

    rate: float
    """Largest share of names that may be wrong, with a confidence of 1 - LEVEL."""
    judged: int
    """Latents above the threshold whose best word is one that images are known to show or not to show."""
    wrong: int
    """Those of them that do not show it."""


def calibrated(names: Names, truth: Tensor, known: Collection[str], rate: float) -> Names:
    """As many names as possible of which at most a share `rate` is wrong, by latents whose words can be judged.

    `truth` is as of `shown`, `known` are the words that it is about. Of NUM_TRIED thresholds, the lowest at which a
    larger share is rejected (a one-sided binomial test, at LEVEL over all of them; Angelopoulos et al. 2021,
    arXiv:2110.01052); the names as they are where there is none. Words that cannot be judged are taken to be wrong as
    often as others of the same cosine. Raises ValueError for a rate outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"the share of wrong names must be between 0 and 1, got {rate}")
    first = names.best[:, 0]
    judged = names.alive & torch.tensor([word in known for word in names.words], device=first.device)[first]
    scores, wrong = names.scores[judged, 0], ~truth.gather(1, names.best[:, :1])[judged, 0]
    steps = torch.linspace(0, 1, NUM_TRIED + 1, dtype=scores.dtype, device=scores.device)[:-1]
    for threshold in scores.quantile(steps, interpolation="higher").tolist() if len(scores) else ():
        above = scores >= threshold
        number, errors = int(above.sum()), int(wrong[above].sum())
        if binom.cdf(errors, number, rate) <= LEVEL / NUM_TRIED:
            return replace(names, threshold=threshold, evidence=Evidence(rate, number, errors))
    return names


def embed(clip: TextEncoder, concepts: Sequence[Concept]) -> Tensor:
    """Unit text embedding of each concept, the mean over its prompts, (concepts, width) in float64."""
    rows = [normalize(clip.encode_text(list(concept.prompts)).double(), dim=-1).mean(0) for concept in concepts]
    return normalize(torch.stack(rows), dim=-1)


def name_latents(
    directions: Tensor, texts: Tensor, words: Sequence[str], alive: Tensor, generator: torch.Generator
) -> Names:
    """The words nearest to the direction of each latent, (num_latents, width), which is free of the mean image.

    `texts` are unit embeddings (words, width), whose mean is subtracted here. A meaningless direction is a random
    mixture of all alive latents', drawn from `generator` on the CPU: it has the covariance that they have, and no
    meaning of its own. Its best word over the whole vocabulary sets the threshold. Raises ValueError for fewer than two
    words, since their mean is subtracted.
    """
    if len(words) < 2:
        raise ValueError(f"naming needs at least two words, got {len(words)}: their mean is what they share")
    centred = normalize(texts - texts.mean(0), dim=-1)
    scores, best = (normalize(directions, dim=-1) @ centred.T).topk(min(BEST, len(words)), dim=1)
    threshold = 1.0
    if alive.any():
        # By the symmetric root of their covariance, so that the order of latents plays no part.
        values, vectors = torch.linalg.eigh(directions[alive].T @ directions[alive])
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        drawn = torch.randn(NUM_NULL, len(root), generator=generator, dtype=torch.float64).to(directions)
        null = normalize(drawn @ root, dim=-1) @ centred.T
        threshold = null.amax(1).quantile(1 - LEVEL).item()
    return Names(tuple(words), best, scores, threshold, alive)


def shown(table: LatentTable, truth: Truth, words: Sequence[str]) -> Tensor:
    """Whether each latent shows each word, (num_latents, words): what its name ought to be, if anything.

    It does if most of the images that fire it show the word, and at least TIMES as large a share as of all images.
    Words that the truth does not know are shown by none. A latent may show several, as "four" and "bold".
    """
    counts = table.counts.clamp(min=1)
    columns = []
    for word in words:
        showing, base = torch.zeros_like(counts), 0.0
        for groups, fired, images in (
            (truth.of_class, table.class_counts, table.images[0]),
            (truth.of_domain, table.domain_counts, table.images[1]),
        ):
            showing_groups = [number for number, words in enumerate(groups) if word in words]
            showing = showing + fired[showing_groups].sum(0)
            base += (images[showing_groups].sum() / images.sum()).item()
        columns.append((showing / counts >= MOST) & (showing / counts >= TIMES * base) & (showing > 0))
    return torch.stack(columns, 1)


@dataclass(frozen=True)
class NameAccuracy:
    """How often names are right, against what images are known to show; numbers of latents."""

    alive: int
    """Latents that fire."""
    clear: int
    """Those that show a word: only they can be named rightly."""
    named: int
    """Those that got a name, clear or not."""
    judged: int
    """Those that are clear and got a name."""
    right: int
    """Those of them whose name is a word they show."""
    right_in_three: int
    """Those of them with such a word among the best three."""
    right_if_forced: int
    """Clear latents whose best word is right, whether or not it was good enough for a name."""
    chance: float
    """Share of judged latents that would be right if their names were permuted among them at random."""

    @property
    def accuracy(self) -> float | None:
        """Share of the judged latents whose name is right; None without any."""
        return self.right / self.judged if self.judged else None


def name_accuracy(names: Names, truth: Tensor) -> NameAccuracy:
    """Names compared with what latents show, (num_latents, words) as of `shown`."""
    truth = truth & names.alive[:, None]
    clear = truth.any(1)
    judged = clear & names.named
    hits = truth.gather(1, names.best)[judged]
    first = names.best[judged, 0]
    chance = truth[judged][:, first].double().mean().item() if judged.any() else 0.0
    return NameAccuracy(
        int(names.alive.sum()),
        int(clear.sum()),
        int(names.named.sum()),
        int(judged.sum()),
        int(hits[:, 0].sum()),
        int(hits.any(1).sum()),
        int(truth.gather(1, names.best[:, :1]).sum()),
        chance,
    )
