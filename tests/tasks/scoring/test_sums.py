"""Sums over shards of a stream are those over the stream, in whatever order they are added up."""

from functools import reduce
from itertools import pairwise
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.tasks.sae.codes import largest
from amalgam.tasks.sae.metrics import MonosemanticityMeter
from amalgam.tasks.scoring.sums import Moments, Sums

ROWS, COLUMNS, GROUPS = 40, 3, 4
WHOLE = st.lists(st.integers(0, ROWS), max_size=6).map(lambda cuts: [0, *sorted(set(cuts) - {0, ROWS}), ROWS])


def stream(integers: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=draw)
    return (10 * values).round() if integers else values, torch.randint(GROUPS, (ROWS,), generator=draw)


def summed(values: torch.Tensor, groups: torch.Tensor) -> Sums:
    sums = Sums()
    sums.add({"all": values.sum(0)})
    sums.add_by(groups, GROUPS, {"by group": values})
    sums.keep_least({"least": values.amin(0)})
    sums.count(len(values))
    return sums


def shards(cuts: list[int], order: list[int], *columns: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The rows between consecutive cuts, the pieces in some order."""
    pieces = [tuple(column[start:stop] for column in columns) for start, stop in pairwise(cuts)]
    return [pieces[place] for place in sorted(range(len(pieces)), key=lambda place: order[place])]


@settings(deadline=None)
@given(WHOLE, st.permutations(range(8)))
def test_shards_add_up_to_the_whole_in_any_order(cuts, order):
    values, groups = stream(integers=True)
    whole, parts = summed(values, groups), [summed(*piece) for piece in shards(cuts, order, values, groups)]
    both = reduce(add, parts)
    assert both.num_examples == ROWS and set(both) == set(whole)
    assert all(torch.equal(both[name], whole[name]) for name in whole)


@settings(deadline=None)
@given(WHOLE, st.permutations(range(8)))
def test_moments_of_shards_are_those_of_the_whole_even_far_from_zero(cuts, order):
    values, _ = stream()
    values = values + 1e6  # where the sum of squares less the squared sum would keep four digits of the variance
    both = reduce(add, [Moments.of(piece) for (piece,) in shards(cuts, order, values)], Moments.none(COLUMNS))
    torch.testing.assert_close(both.mean, values.mean(0))
    torch.testing.assert_close(both.variance, values.var(0, correction=0))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_meter_of_shards_gives_what_one_of_the_whole_gives(order):
    activations, embeddings = stream()[0].relu(), torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))
    whole = MonosemanticityMeter()
    whole.update(largest(activations, COLUMNS), embeddings)
    parts = []
    for piece in shards([0, 7, 30, ROWS], list(order), activations, embeddings):
        parts.append(MonosemanticityMeter())
        parts[-1].update(largest(piece[0], COLUMNS), piece[1])
    together = MonosemanticityMeter(reduce(add, [part.sums for part in parts]))
    torch.testing.assert_close(together.result(), whole.result())


def test_sums_over_nothing_are_refused_and_adding_leaves_both_alone():
    with pytest.raises(ValueError, match="images"):
        Sums().require("images to sum")
    one, other = summed(*stream(integers=True)), summed(*stream(integers=True))
    assert torch.equal((one + other)["all"], 2 * one["all"]) and torch.equal(one["all"], other["all"])
    assert one.num_examples == ROWS
