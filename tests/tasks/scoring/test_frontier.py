"""Frontiers are compared at equal in-distribution accuracy, whatever points of them were tried."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amalgam.tasks.scoring.comparing import pool
from amalgam.tasks.scoring.frontier import Lines, reached
from amalgam.tasks.scoring.pooled import Hits

COUNT = 1000


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def lines_through(points: dict[str, tuple[float, float]], seeds: int = 2) -> Lines:
    """Networks with these accuracies in and out of distribution, exactly, in every seed."""
    names = list(points)
    hits = {
        (role, role): [
            Hits(torch.stack([torch.arange(COUNT) < COUNT * points[name][place] for name in names], 1))
            for _ in range(seeds)
        ]
        for place, role in enumerate(("id", "seen"))
    }
    lines = [[name for name in names if name[0] in ("f", letter)] for letter in "ab"]
    return Lines(pool(hits, names), *lines, chosen="a2")


def test_a_line_is_interpolated_and_never_extrapolated():
    home, shift = row(0.5, 0.4, 0.3), row(0.1, 0.2, 0.4)
    for at, expected in ((0.5, 0.1), (0.45, 0.15), (0.35, 0.3), (0.3, 0.4), (0.1, 0.4), (0.51, -torch.inf)):
        assert reached(home, shift, torch.tensor([at]).double()).item() == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6), st.floats(0, 1))
def test_more_accuracy_in_distribution_never_allows_more_on_shifts(points, at):
    home, shift = (row(*column) for column in zip(*points, strict=True))
    here, beyond = (reached(home, shift, torch.tensor([x]).double()) for x in (at, at + 0.1))
    assert here >= beyond


def test_a_grid_decides_nothing():
    """Both methods lie on one line but were tried at other points of it: the nearest point would differ by 5 points."""
    lines = lines_through(
        {"f": (0.6, 0.2), "a1": (0.55, 0.3), "a2": (0.5, 0.4), "b1": (0.575, 0.25), "b2": (0.45, 0.5)}
    )
    found = lines.difference("seen")
    assert lines.at == pytest.approx(0.5) and found.value == pytest.approx(0, abs=1e-9)
    assert lines.mean_gap("seen").value == pytest.approx(0, abs=1e-6)


def test_the_mean_gap_is_the_area_between_the_lines_over_its_width():
    lines = lines_through({"f": (0.6, 0.2), "a2": (0.4, 0.6), "b1": (0.4, 0.4)})
    assert lines.difference("seen").value == pytest.approx(0.2)
    assert lines.mean_gap("seen").value == pytest.approx(0.1, abs=1e-6)  # a triangle


def test_a_method_that_reaches_less_is_compared_where_it_reaches():
    lines = lines_through({"f": (0.45, 0.2), "a2": (0.6, 0.3), "b1": (0.4, 0.25)})
    assert lines.at == pytest.approx(0.45)
    assert lines.difference("seen").value == pytest.approx(0.1)


def test_one_seed_is_never_sure():
    points = {"f": (0.6, 0.2), "a2": (0.4, 0.9), "b1": (0.4, 0.3)}
    assert (
        lines_through(points).difference("seen").is_sure
        and not lines_through(points, seeds=1).difference("seen").is_sure
    )
