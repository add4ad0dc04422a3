"""Verdicts of simulated nights: drifted data and slow declines are found, lucky seeds and plain noise are not."""

import random

import pytest

from amalgam.tasks.scoring.nights import Tolerance, changes, judge, night_noise

NOISE = 0.003
HALF_POINT = Tolerance.parse("accuracy=0.5pt")


def nights(count, seed, level=0.95):
    generator = random.Random(seed)
    return [generator.gauss(level, NOISE) for _ in range(count)]


def verdicts(values, baseline=None, tolerance=HALF_POINT, metric="accuracy/fused"):
    """What each night is, with those before it."""
    return [
        judge(metric, value, values[max(0, n - 10) : n], baseline, tolerance).kind for n, value in enumerate(values)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_drifted_data_in_the_seventh_of_ten_nights_is_found_and_dated(seed):
    values = nights(10, seed)
    values[6:] = [value - 0.05 for value in values[6:]]
    found = judge("accuracy", values[6], values[:6], 0.95, HALF_POINT)
    assert (found.kind, found.since) == ("regression", 6) and found.fall == pytest.approx(0.05, abs=5 * NOISE)
    later = judge("accuracy", values[8], values[:8], 0.95, HALF_POINT)
    assert (later.kind, later.since) == ("regression", 6)


@pytest.mark.parametrize("seed", range(20))
def test_a_slow_decline_is_found_within_twelve_nights(seed):
    values = [value - 0.004 * number for number, value in enumerate(nights(12, seed))]
    assert {"decline", "regression"} & set(verdicts(values))


def test_noise_is_flagged_about_as_often_as_it_is_said_to_be():
    alarms = sum(kind in ("regression", "decline") for seed in range(100) for kind in verdicts(nights(10, seed))[3:])
    assert alarms <= 25  # of 700 nights; two rules at 0.5 % each would give 7, and few nights make tails heavier


def test_a_lucky_night_makes_no_regression_of_the_next():
    flagged = 0
    for seed in range(50):
        values = nights(10, seed)
        values[8] += 4 * NOISE
        flagged += judge("accuracy", values[9], values[:9], None, HALF_POINT).is_bad
    assert flagged <= 2


def test_the_99_8_99_4_68_5_night_is_a_regression_without_any_history():
    for value, expected in ((0.998, "new"), (0.994, "steady"), (0.685, "regression")):
        before = [0.998, 0.994][: {0.998: 0, 0.994: 1, 0.685: 2}[value]]
        assert judge("accuracy", value, before, None, HALF_POINT).kind == expected


def test_a_fall_within_the_tolerance_is_steady_and_a_rise_is_an_improvement():
    before = [0.9, 0.9, 0.9, 0.9]
    assert judge("accuracy", 0.896, before, 0.9, HALF_POINT).kind == "steady"
    assert judge("accuracy", 0.894, before, 0.9, HALF_POINT).kind == "regression"
    assert judge("accuracy", 0.92, before, 0.9, HALF_POINT).kind == "improvement"


def test_losses_fall_when_they_rise():
    found = judge("nll", 0.5, [0.3, 0.301, 0.3, 0.3], 0.3, Tolerance.parse("nll=10%"))
    assert found.kind == "regression" and found.level == 0.3
    assert judge("nll", 0.2, [0.3, 0.301, 0.3, 0.3], 0.3, Tolerance.parse("nll=10%")).kind == "improvement"


def test_the_noise_of_nights_is_theirs_and_not_that_of_one_bad_night_or_of_a_slope():
    values = nights(400, 0)
    assert night_noise(values) == pytest.approx(NOISE, rel=0.2)
    spoiled = [value - 0.3 * (number == 7) - 0.0001 * number for number, value in enumerate(values)]
    assert night_noise(spoiled) == pytest.approx(NOISE, rel=0.2)


@pytest.mark.parametrize(
    "text, amount, relative", [("accuracy=0.5pt", 0.005, False), ("nll=2%", 0.02, True), ("ms=3", 3, False)]
)
def test_tolerances_are_read_with_their_units(text, amount, relative):
    found = Tolerance.parse(text)
    assert found.amount == pytest.approx(amount) and found.is_relative == relative


@pytest.mark.parametrize("text", ["accuracy", "=1", "accuracy=x", "accuracy=-1pt", "accuracy=nan"])
def test_other_tolerances_are_refused(text):
    with pytest.raises(ValueError, match=text):
        Tolerance.parse(text)


def test_a_tolerance_covers_a_metric_and_what_lies_below_it():
    assert HALF_POINT.covers("accuracy") and HALF_POINT.covers("accuracy/fused 0.4")
    assert not HALF_POINT.covers("accuracy_of_both")


def test_what_changed_between_nights_is_named():
    assert changes({"torch": "2.1", "data": "a"}, {"torch": "2.2", "data": "a", "code": "f"}) == [
        "code: none -> f",
        "torch: 2.1 -> 2.2",
    ]
