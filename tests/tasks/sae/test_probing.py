"""Sparse probing and absorption on activations in which the answer was planted."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from amalgam.tasks.sae.codes import Codes, largest
from amalgam.tasks.sae.probing import probe_scores, sparse_rows

ROWS, LATENTS, WIDTH = 2000, 12, 8


def noise(seed=0):
    """Activations of latents that know nothing, and orthogonal atoms as far as there are any."""
    draw = np.random.default_rng(seed)
    activations = draw.random((ROWS, LATENTS)) * (draw.random((ROWS, LATENTS)) < 0.3)
    return draw, activations, np.concatenate([np.eye(WIDTH), draw.normal(size=(LATENTS - WIDTH, WIDTH))])


def scores(activations, atoms, labels, **settings):
    return probe_scores(activations @ atoms, csr_array(activations), labels, atoms, **settings)


def one_class(draw):
    """Which rows are of the class 1, and labels in which every other class is too small to be probed."""
    is_class = draw.random(ROWS) < 0.5
    return is_class, np.where(is_class, 1, -1 - draw.integers(0, 200, ROWS))


def test_a_class_with_a_latent_of_its_own_is_found_by_one_latent_and_nothing_is_absorbed():
    draw, activations, atoms = noise()
    is_class, labels = one_class(draw)
    activations[:, 0] = 2.0 * is_class
    found = scores(activations, atoms, labels)
    assert found.latents[1] > 0.99 and found.features > 0.99 and found.num_classes == 1
    assert found.absorption == 0


@pytest.mark.parametrize(("share", "counts"), [(0.03, True), (0.4, False)])
def test_a_latent_that_fires_in_place_of_a_class_s_own_absorbs_these_rows(share, counts):
    """Atom 1 has the direction of the class; of many rows, it is a main latent itself, as the class is split."""
    draw, activations, atoms = noise()
    is_class, labels = one_class(draw)
    taken = is_class & (draw.random(ROWS) < share)
    activations[:, :2] = 0
    activations[is_class & ~taken, 0] = 2.0
    activations[taken, 1] = 2.0
    atoms[1] = atoms[0] + 0.2 * atoms[1]
    found = scores(activations, atoms, labels, ks=(1, 2))
    wanted = taken.sum() / is_class.sum() if counts else 0
    assert found.absorption == pytest.approx(wanted, abs=0.02) and (found.absorption > 0) == counts
    assert found.latents[2] > found.latents[1]


def test_labels_that_nothing_says_are_guessed():
    draw, activations, atoms = noise(1)
    found = scores(activations, atoms, draw.integers(0, 2, ROWS))
    assert all(abs(value - 0.5) < 0.1 for value in (*found.latents.values(), found.features))


def test_the_order_of_latents_changes_no_score():
    draw, activations, atoms = noise(2)
    labels = draw.integers(0, 3, ROWS)
    activations[:, 3] += labels
    order = draw.permutation(LATENTS)
    one, other = scores(activations, atoms, labels), scores(activations[:, order], atoms[order], labels)
    assert one.latents == pytest.approx(other.latents, abs=1e-9) and one.features == pytest.approx(
        other.features, abs=0.02
    )


def test_codes_become_sparse_rows_without_their_filling():
    pre = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    codes = largest(pre, 4)
    matrix = sparse_rows(codes)
    np.testing.assert_allclose(matrix.toarray(), codes.dense().double().numpy())
    assert matrix.nnz == int(codes.l0().sum())
    assert sparse_rows(Codes(codes.indices, torch.zeros_like(codes.values), 9)).nnz == 0


def test_too_few_rows_and_impossible_numbers_of_latents_are_refused():
    _, activations, atoms = noise()
    with pytest.raises(ValueError, match="10 rows"):
        scores(activations, atoms, np.zeros(ROWS, dtype=int))
    with pytest.raises(ValueError, match="13"):
        scores(activations, atoms, np.arange(ROWS) % 2, ks=(1, 13))
