"""Comparisons of networks on the same images: pooled over seeds, and seed by seed."""

import pytest
import torch

from amalgam.tasks.scoring.comparing import OVERALL, overall_weights, pool
from amalgam.tasks.scoring.pooled import Hits


def hits(seed: int, count: int = 50) -> Hits:
    return Hits(torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) < torch.tensor([0.5, 0.7]))


def roles(*names: str) -> dict[tuple[str, str], list[Hits]]:
    return {
        (role, f"{role} {n}"): [hits(10 * place + n + s) for s in range(3)]
        for place, role in enumerate(names)
        for n in range(2)
    }


def test_differences_turn_their_sign_and_are_means_over_seeds():
    pooled = pool(roles("id", "seen"), ["a", "b"])
    for role in ("id", "seen", OVERALL):
        ahead, behind = pooled.difference(role, "b", "a"), pooled.difference(role, "a", "b")
        assert ahead.value == pytest.approx(-behind.value) == pytest.approx(ahead.seeds.mean)
        assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low))
        assert ahead.num_ahead + behind.num_ahead <= 3 == ahead.seeds.num_seeds


def test_overall_is_half_in_distribution_and_half_the_mean_of_shifts():
    pooled = pool(roles("id", "seen", "natural"), ["a", "b"])
    parts = {role: pooled.by_role[role]["a"].value for role in ("id", "seen", "natural")}
    expected = (parts["id"] + (parts["seen"] + parts["natural"]) / 2) / 2
    assert pooled.by_role[OVERALL]["a"].value == pytest.approx(expected)
    assert overall_weights(["id"]) == overall_weights(["seen"]) == {}


def test_a_set_that_a_seed_lacks_is_refused():
    uneven = roles("id") | {("seen", "bold"): [hits(0), hits(1)]}
    with pytest.raises(ValueError, match="'bold'"):
        pool(uneven, ["a", "b"])


def test_one_seed_is_never_sure():
    ahead = torch.tensor([[0, 1]]).repeat(50, 1)
    for seeds, is_sure in ((1, False), (2, True)):
        found = pool({("id", "plain"): [Hits(ahead)] * seeds}, ["a", "b"]).difference("id", "b", "a")
        assert (found.value, found.low) == pytest.approx((1, 1)) and found.is_sure == is_sure
