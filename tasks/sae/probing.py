"""Do single latents stand for labels: sparse probing with k latents, and absorption.

Probes are logistic regressions, one class against the rest, fitted on 70 % of the rows and tested on the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from amalgam.tasks.sae.codes import Codes

TRAINED = 0.7
FEWEST = 10  # rows of a class and of the rest, in each part
SPLIT_GAIN, MOST_SPLIT = 0.03, 10
"""A further latent is a main latent of a class if it raises F1 by more; at most so many are."""
ALIGNED, SHARE = 0.025, 0.4
"""Least cosine of an absorbing atom with the probe, and least share of the projection on it."""


@dataclass(frozen=True)
class ProbeScores:
    """Means over classes. Balanced accuracy is the mean of sensitivity and specificity: 0.5 is chance."""

    num_classes: int
    features: float
    """Balanced accuracy of a probe on the features."""
    latents: dict[int, float]
    """That of probes on k latents, by k: those whose means differ most between a class and the rest (Gurnee et al.
    2023, arXiv:2305.01610)."""
    absorption: float | None
    """Share of rows that the features' probe finds, in which no main latent of the class is active and one other makes
    up for it (Chanin et al. 2024, arXiv:2409.14507; thresholds as in SAEBench); None if probes find no row."""


def sparse_rows(codes: Codes) -> csr_array:
    """Codes of a batch as a sparse matrix (batch, num_latents)."""
    values, latents = codes.values.detach().double().cpu().numpy(), codes.indices.cpu().numpy()
    rows = np.repeat(np.arange(len(values)), values.shape[1])
    matrix = csr_array((values.ravel(), (rows, latents.ravel())), shape=(len(values), codes.num_latents))
    matrix.eliminate_zeros()
    return matrix


def probe_scores(
    features: NDArray,
    activations: csr_array,
    labels: NDArray,
    atoms: NDArray,
    ks: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> ProbeScores:
    """Scores of features (rows, width) less the decoder's bias, activations (rows, latents), labels (rows,).

    Raises ValueError if fewer than two classes have enough rows on both sides, or a k is larger than the dictionary.
    """
    if not ks or not 1 <= min(ks) <= max(ks) <= activations.shape[1]:
        raise ValueError(f"probes take 1 to {activations.shape[1]} latents, got k = {', '.join(map(str, ks))}")
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = round(TRAINED * len(labels))
    train, test = order[:cut], order[cut:]
    enough = [
        c
        for c in np.unique(labels)
        if all(min((labels[p] == c).sum(), (labels[p] != c).sum()) >= FEWEST for p in (train, test))
    ]
    if not enough:
        raise ValueError(
            f"probes need a class with at least {FEWEST} rows, and as many of others, in each of two parts"
        )
    scores = [_of_class(features, activations, labels == c, atoms, ks, train, test) for c in enough]
    absorbed = [score.absorption for score in scores if score.absorption is not None]
    return ProbeScores(
        len(enough),
        fmean(score.features for score in scores),
        {k: fmean(score.latents[k] for score in scores) for k in ks},
        fmean(absorbed) if absorbed else None,
    )


def _of_class(
    features: NDArray,
    activations: csr_array,
    is_class: NDArray,
    atoms: NDArray,
    ks: Sequence[int],
    train: NDArray,
    test: NDArray,
) -> ProbeScores:
    inside, outside = (activations[train[is_class[train] == wanted]].mean(axis=0) for wanted in (True, False))
    telling = np.argsort(-np.abs(inside - outside), kind="stable")

    def fitted(rows: NDArray) -> tuple[LogisticRegression, NDArray]:
        probe = LogisticRegression(class_weight="balanced", max_iter=1000).fit(rows[train], is_class[train])
        return probe, probe.predict(rows[test])

    def on_latents(latents: NDArray) -> NDArray:
        return fitted(activations[:, latents].toarray())[1]

    wanted = is_class[test]
    by_k = {k: float(balanced_accuracy_score(wanted, on_latents(telling[:k]))) for k in ks}
    probe, said = fitted(features / features.std())
    found = test[wanted & said]
    main = _main_latents(np.argsort(outside - inside, kind="stable"), wanted, on_latents)
    absorbed = _absorbed(features[found], activations[found], atoms, probe.coef_[0], main) if len(found) else None
    return ProbeScores(1, float(balanced_accuracy_score(wanted, said)), by_k, absorbed)


def _main_latents(ranked: NDArray, wanted: NDArray, on_latents: Callable[[NDArray], NDArray]) -> NDArray:
    """The latents, at least one, among which a class is split."""
    scores = [float(f1_score(wanted, on_latents(ranked[:1])))]
    while len(scores) < min(MOST_SPLIT, len(ranked)):
        scores.append(float(f1_score(wanted, on_latents(ranked[: len(scores) + 1]))))
        if scores[-1] - scores[-2] <= SPLIT_GAIN:
            return ranked[: len(scores) - 1]
    return ranked[: len(scores)]


def _absorbed(features: NDArray, activations: csr_array, atoms: NDArray, direction: NDArray, main: NDArray) -> float:
    """The share of rows of which another latent than the main ones says what these should."""
    unit = direction / np.linalg.norm(direction)
    along = atoms @ unit
    aligned = along / np.linalg.norm(atoms, axis=1).clip(min=1e-12) >= ALIGNED
    contributions, projection = csr_array(activations.multiply(along)), features @ unit
    strongest = np.asarray(contributions.argmax(axis=1)).ravel()
    share = contributions.max(axis=1).toarray().ravel() / np.where(projection > 0, projection, np.inf)
    silent = np.asarray(activations[:, main].sum(axis=1)).ravel() == 0
    return float((silent & aligned[strongest] & (share >= SHARE)).mean())
