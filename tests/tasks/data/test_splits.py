"""The laws of who sees what."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam.tasks.data.splits import ClassSplit, GeneralSpecialist, Shared, SharedSample, hold_out

LABELS = np.repeat(np.arange(10), 50)
label_arrays = st.lists(st.integers(0, 5), min_size=2, max_size=200).map(np.array)


@given(label_arrays, st.floats(0.01, 0.99), st.integers(0, 5))
def test_holding_out_divides_every_class_by_the_share(labels, share, seed):
    if round(share * len(labels)) in (0, len(labels)):
        with pytest.raises(ValueError, match=f"of {len(labels)} "):
            hold_out(labels, share, seed)
        return
    kept, held = hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == round(share * len(labels))
    for label in range(6):
        assert abs((labels[held] == label).sum() - share * (labels == label).sum()) < 1 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=40, max_size=200), st.integers(0, 5))
def test_no_source_is_on_both_sides(examples, seed):
    labels, sources = np.array(examples).T
    if len(np.unique(sources)) < 4:
        return
    kept, held = hold_out(labels, 0.3, seed, sources[:, None])
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert not set(sources[kept]) & set(sources[held])
    largest = np.bincount(sources).max()
    assert abs(len(held) - 0.3 * len(labels)) <= largest


def test_examples_that_share_a_source_through_others_stay_together():
    chain = np.array([[0, 1], [1, 2], [2, 3], [7, 8], [8, 9]])
    kept, held = hold_out(np.zeros(5, int), 0.4, 0, chain)
    assert (kept.tolist(), held.tolist()) == ([0, 1, 2], [3, 4])
    with pytest.raises(ValueError, match="1 groups"):
        hold_out(np.zeros(3, int), 0.4, 0, chain[:3])


def test_every_example_its_own_source_is_the_plain_split():
    plain, by_source = (hold_out(LABELS, 0.2, 3, sources) for sources in (None, np.arange(500)[:, None]))
    assert all((a == b).all() for a, b in zip(plain, by_source, strict=True))


def test_general_never_sees_the_special_class_and_the_specialist_sees_all_of_it():
    general, specialist = GeneralSpecialist(special_class=4, share=0.9)(LABELS, 2, seed=0)
    assert np.bincount(LABELS[general], minlength=10).tolist() == [45] * 4 + [0] + [45] * 5
    assert np.bincount(LABELS[specialist]).tolist() == [5] * 4 + [50] + [5] * 5
    assert sorted([*general, *specialist]) == list(range(len(LABELS)))


@pytest.mark.parametrize("num_members", [1, 2, 3, 10])
def test_every_class_has_one_home_and_no_example_is_seen_twice(num_members):
    members = ClassSplit(other=0.04)(LABELS, num_members, seed=0)
    assert sorted(np.concatenate(members)) == list(range(len(LABELS)))
    for member, indices in enumerate(members):
        counts = np.bincount(LABELS[indices], minlength=10)
        expected = [50 - 2 * (num_members - 1) if c % num_members == member else 2 for c in range(10)]
        assert counts.tolist() == expected


def test_shared_is_everything_for_everyone():
    assert all((indices == np.arange(500)).all() for indices in Shared()(LABELS, 3, seed=0))


def test_a_shared_sample_is_as_many_of_every_class_for_everyone():
    first, second = SharedSample(num_images=100)(LABELS, 2, seed=0)
    assert (first == second).all() and np.bincount(LABELS[first]).tolist() == [10] * 10


@pytest.mark.parametrize("split", [GeneralSpecialist(), ClassSplit(), Shared(), SharedSample(num_images=30)])
def test_the_same_seed_deals_the_same_and_in_order(split):
    first, again = split(LABELS, 2, seed=1), split(LABELS, 2, seed=1)
    for mine, its in zip(first, again, strict=True):
        assert (mine == its).all() and (np.diff(mine) > 0).all()


@pytest.mark.parametrize("split", [GeneralSpecialist(), ClassSplit(other=0.1), SharedSample(num_images=30)])
def test_another_seed_deals_otherwise(split):
    assert not np.array_equal(split(LABELS, 2, seed=1)[0], split(LABELS, 2, seed=2)[0])


@pytest.mark.parametrize(
    "split, labels, num_members, message",
    [
        (Shared(), np.array([], int), 2, "member 0 is empty"),
        (Shared(), np.full(9, 3), 2, r"contains only class 3 \(9 examples\)"),
        (GeneralSpecialist(), LABELS, 3, "makes 2 members, got 3"),
        (GeneralSpecialist(special_class=12), LABELS, 2, "must be one of the classes 0, 1.*got 12"),
        (GeneralSpecialist(special_class=1), LABELS[:100], 2, "general member contains only class 0"),
        (ClassSplit(), LABELS, 11, "a class for each member: got 11 members, 10 classes"),
        (SharedSample(num_images=500), LABELS, 2, "500 training images .* fewer than the 500"),
        (ClassSplit(other=0.5), LABELS, 3, "other must be below 1/2 with 3 members, got 0.5"),
        (ClassSplit(other=0), LABELS[:100], 2, "member 0 contains only class 0"),
    ],
)
def test_a_split_nothing_can_be_learnt_from_is_refused(split, labels, num_members, message):
    with pytest.raises(ValueError, match=message):
        split(labels, num_members, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {share}"):
        hold_out(LABELS, share, seed=0)
