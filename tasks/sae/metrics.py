"""How good a sparse autoencoder is: what it loses, how sparse and alive it is, whether other seeds find the same atoms.

Sums over examples are kept in float64, so that everything streams over batches and any order gives the same numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cosine_similarity, linear

from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit_norm
from amalgam.tasks.sae.codes import Codes
from amalgam.tasks.scoring.sums import Sums


def fvu(features: Tensor, reconstruction: Tensor) -> float:
    """Fraction of the variance left unexplained: squared error over squared distance from the mean."""
    wide = features.double()
    error = (wide - reconstruction.double()).square().sum()
    return (error / (wide - wide.mean(0)).square().sum()).item()


DEAD_WITHIN = 500  # images


@dataclass(frozen=True)
class Quality:
    """How an autoencoder does on one set of features."""

    num_examples: int
    fvu: float
    """Squared error over squared distance from the mean of this set; above 1, the mean would have done better."""
    cosine: float
    """Mean cosine of features and reconstructions."""
    l0: float
    """Mean number of active latents."""
    firing_rates: Tensor
    """Share of examples in which each latent is active, (num_latents,), float64."""
    accuracy: float | None
    """Accuracy of a head on the features; None without a head."""
    reconstruction_accuracy: float | None
    """Accuracy of the same head on the reconstructions; None without a head."""
    monosemanticity: float | None
    """Mean over latents of how alike the features of the images that activate it are, see `MonosemanticityMeter`;
    None where no latent is active in two images. The features are those it reads, not of an independent encoder."""
    similarity: float | None
    """Mean cosine of the features of any two images: that of an unselective latent; None of one image."""

    @property
    def dead_share(self) -> float:
        """Share of latents that are active in none of `DEAD_WITHIN` images, expected of a random draw of so many.

        Sets of different sizes can be compared by it; of smaller ones, all images are meant.
        """
        count, drawn = torch.tensor(self.num_examples).double(), min(DEAD_WITHIN, self.num_examples)
        silent = count - (self.firing_rates * count).round()
        # Hypergeometric: C(silent, drawn) of C(count, drawn) draws miss all images in which a latent is active.
        chances = torch.exp(_log_choose(silent.clamp(min=drawn), drawn) - _log_choose(count, drawn))
        return chances.where(silent >= drawn, 0).mean().item()


@dataclass
class MonosemanticityMeter:
    """Mean similarity of the images that activate a latent, by activation (Pach et al. 2025, arXiv:2504.02821).

    Of activations a, scaled to [0, 1] over all images, and unit embeddings E of an independent encoder:

        MS = sum_{n != m} a_n a_m cos(E_n, E_m) / sum_{n != m} a_n a_m = (|E'a|^2 - a'a) / ((sum a)^2 - a'a)

    The scale cancels and the smallest activation enters linearly, so that one pass and O(images x width) per latent do.
    """

    sums: Sums = field(default_factory=Sums)

    @torch.no_grad()
    def update(self, codes: Codes, embeddings: Tensor) -> None:
        """Count a batch of codes (batch, K) and embeddings (batch, any width)."""
        if len(codes.values) != len(embeddings):
            raise ValueError(f"{len(codes.values)} rows of activations need as many embeddings, got {len(embeddings)}")
        e = unit_norm(embeddings.double())
        s, squares = (replace(codes, values=codes.values.double() ** power) for power in (1, 2))
        # Embeddings of norm 0 have no direction and must not count as similar to themselves.
        own = e.square().sum(1)
        batch = {"se": s.weighted_sums(e), "e": e.sum(0), "ee": own.sum(), "s": s.sums(), "ss": squares.sums()}
        batch |= {name: replace(x, values=x.values * own[:, None]).sums() for name, x in (("sse", squares), ("see", s))}
        self.sums.add(batch | {"fired": s.fired()})
        none = torch.full_like(batch["s"], torch.inf)
        filled = s.values.where(s.active, torch.inf)
        self.sums.keep_least({"least": none.scatter_reduce(0, s.indices.flatten(), filled.flatten(), "amin")})
        self.sums.count(len(embeddings))

    def result(self) -> Tensor:
        """The score of each latent in [-1, 1], (num_latents,); NaN where fewer than two images activate it."""
        self.sums.require("activations to score")
        sums, count = self.sums, self.sums.num_examples
        least = sums["least"].where(sums["fired"] == count, sums["least"].clamp(max=0))
        total = sums["s"] - count * least
        squares = sums["ss"] - 2 * least * sums["s"] + count * least.square()
        resultant = sums["se"] - torch.outer(least, sums["e"])
        own = sums["sse"] - 2 * least * sums["see"] + least.square() * sums["ee"]
        pairs = total.square() - squares
        score = (resultant.square().sum(1) - own) / pairs
        return score.where(pairs > 1e-12 * total.square(), torch.nan)

    def chance(self) -> float | None:
        """The score of a latent that is as active in every image: their mean similarity; None of fewer than two."""
        pairs = self.sums.num_examples * (self.sums.num_examples - 1)
        return ((self.sums["e"].square().sum() - self.sums["ee"]) / pairs).item() if pairs else None


@dataclass
class QualityMeter:
    """Sums from which `Quality` follows; feed it batches, on any device."""

    sae: SparseAutoencoder
    head: Tensor | None = None
    """Zero-shot classifier (num_classes, width), applied to unit vectors."""
    sums: Sums = field(default_factory=Sums)
    alike: MonosemanticityMeter = field(default_factory=MonosemanticityMeter)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor | None = None, targets: Tensor | None = None) -> None:
        """Count a batch of features (batch, width), with labels (batch,) if there is a head.

        `targets` are what a transcoder should give, (batch, num_outputs); None is the features themselves.
        """
        if self.head is not None and labels is None:
            raise ValueError("accuracy needs labels: give those of the batch, or a meter without a head")
        codes = self.sae.encode(features)
        reconstruction = self.sae.output(codes, features).double()
        wide = (features if targets is None else targets).double()
        amounts = {
            "feature": wide.sum(0),
            "square": wide.square().sum(),
            "error": (wide - reconstruction).square().sum(),
            "cosine": cosine_similarity(wide, reconstruction, dim=-1).sum(),
            "fired": codes.fired().double(),
        }
        self.alike.update(codes, features)
        if self.head is not None and labels is not None:
            for name, vectors in (("hits", wide), ("reconstruction_hits", reconstruction)):
                predicted = linear(unit_norm(vectors), self.head.to(vectors)).argmax(-1)
                amounts[name] = (predicted == labels.to(predicted.device)).sum()
        self.sums.add(amounts)
        self.sums.count(len(features))

    def result(self) -> Quality:
        """The quality on all batches so far. Raises ValueError if there were none."""
        self.sums.require("features to measure an autoencoder on")
        count, sums = self.sums.num_examples, self.sums
        scores = self.alike.result()
        scores = scores[scores.isfinite()]
        variance = sums["square"] - sums["feature"].square().sum() / count
        accuracies = [sums[name].item() / count if name in sums else None for name in ("hits", "reconstruction_hits")]
        return Quality(
            count,
            fvu=(sums["error"] / variance).item(),
            cosine=sums["cosine"].item() / count,
            l0=sums["fired"].sum().item() / count,
            firing_rates=sums["fired"] / count,
            accuracy=accuracies[0],
            reconstruction_accuracy=accuracies[1],
            monosemanticity=scores.mean().item() if len(scores) else None,
            similarity=self.alike.chance(),
        )


def quality_by_domain(
    sae: SparseAutoencoder, batches: Iterable[tuple[Tensor, Tensor, Tensor]], head: Tensor | None = None
) -> dict[int, Quality]:
    """The quality on each domain, from batches of features, labels and domain numbers (batch,)."""
    meters: dict[int, QualityMeter] = {}
    for features, labels, domains in batches:
        for domain in domains.unique().tolist():
            chosen = domains == domain
            meter = meters.setdefault(domain, QualityMeter(sae, head))
            meter.update(features[chosen.to(features.device)], labels[chosen.to(labels.device)])
    return {domain: meters[domain].result() for domain in sorted(meters)}


def recovered(true_atoms: Tensor, atoms: Tensor) -> Tensor:
    """Cosine of each true atom (n, width) with the learnt atom (m, width) nearest to it, (n,)."""
    return (unit_norm(true_atoms) @ unit_norm(atoms).T).amax(1)


def matched_cosines(atoms: Tensor, other: Tensor) -> Tensor:
    """Cosines of the atoms of two dictionaries, paired one to one for the highest sum, (min of both numbers,).

    Their mean is the stability between two seeds.
    """
    cosines = (unit_norm(atoms.double()) @ unit_norm(other.double()).T).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]


def matched(atoms: Tensor, other: Tensor) -> Tensor:
    """Cosine of each atom of a dictionary with its match in another of the same size, (num_latents,).

    Atoms that are each other's nearest are matched; the others one to one for the highest sum.
    """
    ours, theirs = (unit_norm(each.double()) for each in (atoms, other))
    nearest = torch.cat([(part @ theirs.T).argmax(1) for part in ours.split(1024)])
    back = torch.cat([(part @ ours.T).argmax(1) for part in theirs.split(1024)])
    places = torch.arange(len(ours), device=ours.device)
    mutual = back[nearest] == places
    found = (ours * theirs[nearest]).sum(1)
    free = torch.ones(len(theirs), dtype=torch.bool, device=ours.device).index_fill(0, nearest[mutual], False)
    cosines = (ours[~mutual] @ theirs[free].T).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return found.masked_scatter(~mutual, cosines[torch.from_numpy(rows), torch.from_numpy(columns)].to(found))


def _log_choose(of: Tensor, number: int) -> Tensor:
    """The logarithm of binomial coefficients, elementwise."""
    chosen = torch.tensor(number).double()
    return (of + 1).lgamma() - (chosen + 1).lgamma() - (of - chosen + 1).lgamma()
