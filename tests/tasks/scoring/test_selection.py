"""Choices by validation accuracy: what they keep, whichever numbers they are given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam.tasks.scoring.selection import chosen_alpha, chosen_strength, mean_over_seeds

tried = st.dictionaries(st.integers(0, 50).map(float), st.integers(0, 100).map(lambda n: n / 100), min_size=1)
tolerances = st.integers(0, 20).map(lambda n: n / 100)


@given(tried, tolerances)
def test_a_choice_gives_up_no_more_than_the_tolerance(validation, tolerance):
    for choose in (chosen_strength, chosen_alpha):
        assert max(validation.values()) - validation[choose(validation, tolerance)] <= tolerance + 1e-8


@given(tried, tolerances)
def test_no_stronger_setting_would_have_done(validation, tolerance):
    floor = max(validation.values()) - tolerance - 1e-8
    strength, alpha = chosen_strength(validation, tolerance), chosen_alpha(validation, tolerance)
    assert all(accuracy < floor for other, accuracy in validation.items() if other > strength)
    assert all(accuracy < floor for other, accuracy in validation.items() if other < alpha)


@given(tried, tolerances, tolerances)
def test_more_tolerance_regularises_more(validation, one, another):
    small, large = sorted((one, another))
    assert chosen_strength(validation, small) <= chosen_strength(validation, large)
    assert chosen_alpha(validation, small) >= chosen_alpha(validation, large)


@given(tried, tolerances, st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(validation, tolerance, random):
    shuffled = dict(random.sample(list(validation.items()), len(validation)))
    assert chosen_strength(shuffled, tolerance) == chosen_strength(validation, tolerance)
    assert chosen_alpha(shuffled, tolerance) == chosen_alpha(validation, tolerance)


@given(tried)
def test_of_equals_the_more_robust_is_chosen(validation):
    level = dict.fromkeys(validation, 0.7)
    assert chosen_strength(level, 0.0) == max(level)
    assert chosen_alpha(level, 0.0) == min(level)


def test_exactly_the_tolerance_is_allowed():
    assert chosen_strength({0.0: 0.80, 10.0: 0.79, 30.0: 0.789}, 0.01) == 10.0


def test_seeds_share_one_choice_by_their_mean():
    mean = mean_over_seeds([{0.0: 0.6, 1.0: 0.5}, {0.0: 0.4, 1.0: 0.7}])
    assert mean == pytest.approx({0.0: 0.5, 1.0: 0.6})


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda: chosen_strength({}, 0.01), "nothing to choose from"),
        (lambda: chosen_alpha({0.5: 0.5}, -0.1), "at least 0, got -0.1"),
        (lambda: mean_over_seeds([]), "at least one seed"),
        (lambda: mean_over_seeds([{0.0: 0.5}, {1.0: 0.5}]), r"got \[0.0\] and \[1.0\]"),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(choose, message):
    with pytest.raises(ValueError, match=message):
        choose()
