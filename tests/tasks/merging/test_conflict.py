"""Conflicts of members: none between copies, all between opposites, and each number by its definition."""

import pytest
import torch

from amalgam import Statistics
from amalgam.tasks.merging.statistics.conflict import conflicts
from tests.tasks.merging.families import family, statistics_of

BASE, MEMBERS = family(3, dtype=torch.float64)


def of_pair(a, b):
    base = {"w": torch.zeros_like(a)}
    return dict(conflicts(base, [{"w": a}, {"w": b}]))["w"]


def test_copies_agree_and_opposites_disagree():
    matrix = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    same, against = of_pair(matrix, matrix), of_pair(matrix, -matrix)
    assert (same.sign_agreement, against.sign_agreement) == (1, 0)
    assert (same.cosine, against.cosine) == (pytest.approx(1), pytest.approx(-1))
    assert same.overlap == pytest.approx(1) == pytest.approx(against.overlap)


def test_tasks_in_orthogonal_directions_have_no_overlap():
    a, b = torch.zeros(6, 6), torch.zeros(6, 6)
    a[0, 0] = a[1, 1] = b[2, 2] = b[3, 3] = 1
    found = of_pair(a, b)
    assert found.overlap == pytest.approx(0, abs=1e-12) and found.cosine == 0
    assert found.sign_agreement == 1, "no entry was moved by both"


def test_signs_count_entries_that_both_moved():
    assert of_pair(torch.tensor([1.0, -1, 2, 0, 3]), torch.tensor([2.0, 1, 1, 5, 0])).sign_agreement == 2 / 3


def test_eta_is_of_matrices_with_known_curvature_and_zero_where_curvatures_are_equal():
    known = statistics_of(MEMBERS)
    found = dict(conflicts(BASE, MEMBERS, Statistics(fisher=known.fisher)))
    matrices = [name for name, one in found.items() if one.overlap is not None]
    assert matrices and all(found[name].eta >= -1e-10 for name in matrices if found[name].eta is not None)
    assert any(found[name].eta for name in matrices)
    equal = dict(conflicts(BASE, MEMBERS, Statistics(fisher=(known.fisher[0],) * len(MEMBERS))))
    assert all(equal[name].eta == pytest.approx(0, abs=1e-9) for name in matrices if equal[name].eta is not None)
    assert all(one.eta is None for one in dict(conflicts(BASE, MEMBERS)).values())


def test_the_order_of_members_does_not_matter_and_numbers_stay_in_range():
    first, second = dict(conflicts(BASE, MEMBERS)), dict(conflicts(BASE, MEMBERS[::-1]))
    for name, one in first.items():
        assert one.sign_agreement == pytest.approx(second[name].sign_agreement)
        assert one.cosine == pytest.approx(second[name].cosine)
        assert 0 <= one.sign_agreement <= 1 and -1 <= one.cosine <= 1
        if one.overlap is not None:
            assert one.overlap == pytest.approx(second[name].overlap) and -1e-9 <= one.overlap <= 1 + 1e-9
