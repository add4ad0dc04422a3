"""Laws of weights between networks: exact ends, no leaks, and one answer for equal networks."""

import pytest
import torch
from torch import nn

from amalgam.tasks.clip.finetuning.interpolate import greedy_soup, interpolate, soup
from amalgam.tasks.training.averaging import mean_state


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    module(torch.randn(9 + seed, 5))
    module[1].num_batches_tracked.fill_(seed)
    return module.eval()


def state(seed: int) -> dict[str, torch.Tensor]:
    return network(seed).state_dict()


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_end_points_are_exact_in_every_dtype(dtype):
    before, after = ({n: t.to(dtype) if t.is_floating_point() else t for n, t in state(s).items()} for s in (1, 2))
    assert equal(interpolate(before, after, 0.0), before) and equal(interpolate(before, after, 1.0), after)


def test_nan_of_the_end_that_has_no_weight_does_not_leak():
    good = state(1)
    bad = {name: torch.full_like(t, float("nan")) if t.is_floating_point() else t for name, t in good.items()}
    assert equal(interpolate(good, bad, 0.0), good) and equal(interpolate(bad, good, 1.0), good)
    assert interpolate(good, bad, 0.5)["0.weight"].isnan().all()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_between_equal_networks_nothing_moves(alpha):
    assert equal(interpolate(state(1), state(1), alpha), state(1))


def test_interpolation_is_the_weighted_mean_and_counters_are_the_first():
    before, after = state(1), state(2)
    middle = interpolate(before, after, 0.3)
    for name, tensor in before.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(middle[name], 0.7 * tensor + 0.3 * after[name])
    assert middle["1.num_batches_tracked"] == 1


def test_outputs_of_a_linear_model_are_linear_in_alpha():
    x, ends = torch.randn(4, 5), [nn.Linear(5, 3) for _ in range(2)]
    middle = nn.Linear(5, 3)
    middle.load_state_dict(interpolate(ends[0].state_dict(), ends[1].state_dict(), 0.25))
    torch.testing.assert_close(middle(x), 0.75 * ends[0](x) + 0.25 * ends[1](x))


def test_half_precision_is_averaged_in_single():
    one, other = {"w": torch.tensor([60000.0]).half()}, {"w": torch.tensor([-60000.0]).half()}
    assert mean_state([one, other], [0.5, 0.5])["w"].item() == 0.0


def test_the_result_shares_no_memory_with_its_ends():
    before, after = state(1), state(2)
    interpolate(before, after, 0.0)["0.weight"].zero_()
    assert before["0.weight"].any()


def test_a_soup_of_three_is_their_mean_in_any_order():
    states = [state(seed) for seed in (1, 2, 3)]
    mean, reordered = soup(states), soup(states[::-1])
    torch.testing.assert_close(mean["0.weight"], torch.stack([s["0.weight"] for s in states]).mean(0))
    torch.testing.assert_close(mean["0.weight"], reordered["0.weight"])


def test_a_greedy_soup_is_never_worse_than_its_best_ingredient():
    states = [{"w": torch.tensor([value])} for value in (1.2, 0.9, 5.0)]

    def score(candidate):
        return -abs(candidate["w"].item() - 1)

    chosen = greedy_soup(states, score)
    assert score(chosen) >= max(map(score, states))
    assert chosen["w"].item() == pytest.approx((1.2 + 0.9) / 2)


@pytest.mark.parametrize(
    ("other", "weights", "message"),
    [
        ({"w": torch.ones(2)}, (0.5, 0.6), "sum to 1"),
        ({"w": torch.ones(2)}, (-0.5, 1.5), "non-negative"),
        ({"w": torch.ones(2)}, (float("nan"), 1.0), "non-negative"),
        ({"w": torch.ones(2)}, (1.0,), "one weight per"),
        ({"v": torch.ones(2)}, (0.5, 0.5), "only one has 'v'"),
        ({"w": torch.ones(3)}, (0.5, 0.5), "'w' is"),
        ({"w": torch.ones(2).half()}, (0.5, 0.5), "float16"),
    ],
)
def test_states_that_have_no_mean_are_refused(other, weights, message):
    with pytest.raises(ValueError, match=message):
        mean_state([{"w": torch.ones(2)}, other], weights)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha.*got"):
        interpolate(state(1), state(2), alpha)
