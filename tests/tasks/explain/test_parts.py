"""Parts of an image: cells partition the points, around seeds that lie as far apart as they can."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.tasks.explain.latents.parts import grid_parts, parts_of


def drawn(count, seed=0):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(points, num_parts, seed=0):
    return parts_of(points, num_parts, torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_cells_partition_the_points_around_their_seeds(count, num_parts, seed):
    points = drawn(count, seed)
    found = parts(points, num_parts, seed)
    assert len(found.seeds) == min(num_parts, count) and found.cells.shape == (count,)
    assert found.cells[found.seeds].tolist() == list(range(len(found.seeds)))
    distances = torch.cdist(points, points[found.seeds], compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances.gather(1, found.cells[:, None]).squeeze(1), distances.min(1).values)


def test_seeds_come_no_further_apart_as_parts_are_added():
    points = drawn(60)
    closest = []
    for num_parts in range(2, 20):
        seeds = points[parts(points, num_parts).seeds]
        closest.append(torch.pdist(seeds).min().item())
    assert closest == sorted(closest, reverse=True)


def test_parts_follow_the_generator():
    points = drawn(30)
    assert torch.equal(parts(points, 5, seed=3).cells, parts(points, 5, seed=3).cells)


def test_equal_points_are_one_part():
    assert len(parts(torch.ones(9, 2), 4).seeds) == 1


def test_pooled_features_weigh_up_to_their_sum():
    features, found = torch.rand(30, 7, dtype=torch.float64), grid_parts(6, 5, 4)
    counts = torch.bincount(found.cells).double()
    torch.testing.assert_close((counts[:, None] * found.pooled(features)).sum(0), features.sum(0))


@pytest.mark.parametrize(
    "points, num_parts, value", [(torch.zeros(0, 2), 3, r"\(0, 2\)"), (torch.zeros(4, 2), 0, "0$")]
)
def test_no_points_or_no_parts_are_refused(points, num_parts, value):
    with pytest.raises(ValueError, match=value):
        parts(points, num_parts)
