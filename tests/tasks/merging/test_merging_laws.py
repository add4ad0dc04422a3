"""Laws of every merge method, on networks with every kind of tensor."""

import pytest
import torch

from amalgam import merge
from amalgam.tasks.merging import MERGE_METHODS, find_merge_method
from amalgam.tasks.merging.staged import Statistics
from tests.tasks.merging.families import family, statistics_of

# Rounding alone separates the two sides of each law; the spectral methods amplify it by a spectral gap.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}

each = pytest.mark.parametrize("kind", MERGE_METHODS, ids=lambda kind: kind.__name__)


def count_of(kind, wanted=3):
    return kind.num_members or wanted


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_names_shapes_dtypes_and_integers_are_kept_and_entries_finite(kind, dtype):
    base, members = family(count_of(kind), dtype=dtype)
    merged = merge(base, members, kind(), statistics_of(members))
    assert list(merged) == list(members[0])
    for name, tensor in members[0].items():
        assert (merged[name].shape, merged[name].dtype) == (tensor.shape, tensor.dtype), name
        assert torch.isfinite(merged[name]).all()
    assert torch.equal(merged["position_ids"], base["position_ids"])
    assert torch.equal(merged["norm.num_batches_tracked"], base["norm.num_batches_tracked"])


@each
def test_inputs_are_untouched_and_nothing_is_shared(kind):
    base, members = family(count_of(kind))
    before = [{name: t.clone() for name, t in state.items()} for state in (base, *members)]
    merged = merge(base, members, kind(), statistics_of(members))
    for tensor in merged.values():
        tensor.fill_(-1)
    for state, copy in zip((base, *members), before, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)


@each
def test_order_of_members_changes_nothing_but_for_named_methods(kind):
    base, members = family(count_of(kind))
    order = list(range(len(members)))[::-1]
    known = statistics_of(members)
    moved = Statistics(
        *(tuple(getattr(known, name)[p] for p in order) for name in ("fisher", "factored")),
        grams=tuple(known.grams[p] for p in order),
        score=known.score,
        live_grams=type(known.live_grams)([known.live_grams.grams[p] for p in order]),
    )
    one, other = merge(base, members, kind(), known), merge(base, [members[p] for p in order], kind(), moved)
    if kind.keeps_order:
        return
    for name in one:
        torch.testing.assert_close(one[name], other[name], **CLOSE)


def test_slerp_depends_on_the_order():
    _, members = family(2)
    kind = find_merge_method("slerp")
    one, other = merge(None, members, kind(t=0.25)), merge(None, members[::-1], kind(t=0.25))
    assert not torch.allclose(one["linear.weight"], other["linear.weight"])


@each
def test_copies_of_one_network_give_it_back_but_for_named_methods(kind):
    base, members = family(1)
    copies = [members[0]] * count_of(kind)
    keeping_all = {name: value for name, value in (("density", 1.0), ("gamma", 0.0)) if name in kind.model_fields}
    merged = merge(base, copies, kind(**keeping_all), statistics_of(copies))
    same = all(torch.allclose(merged[n], members[0][n], **CLOSE) for n in merged if merged[n].is_floating_point())
    assert same == kind.returns_equal


@each
def test_base_is_not_needed_where_a_method_says_so(kind):
    base, members = family(count_of(kind))
    known = statistics_of(members)
    if kind.needs_base:
        with pytest.raises(ValueError, match="base"):
            merge(None, members, kind(), known)
        return
    with_base, without = merge(base, members, kind(), known), merge(None, members, kind(), known)
    assert all(torch.equal(with_base[n], without[n]) for n in without if without[n].is_floating_point())
    assert torch.equal(without["position_ids"], members[0]["position_ids"])


@each
def test_half_precision_is_merged_in_single_precision(kind):
    base, members = family(count_of(kind), dtype=torch.bfloat16)
    known = statistics_of(members)
    wide = merge(
        {n: t.float() if t.is_floating_point() else t for n, t in base.items()},
        [{n: t.float() if t.is_floating_point() else t for n, t in m.items()} for m in members],
        kind(),
        known,
    )
    half = merge(base, members, kind(), known)
    for name in ("linear.bias", "conv.weight", "linear.weight"):
        torch.testing.assert_close(half[name], wide[name].bfloat16())


@each
def test_methods_print_and_validate(kind):
    assert kind.paper and kind.__doc__
    assert find_merge_method(kind.__name__.upper()) is kind
    with pytest.raises(ValueError, match="extra"):
        kind(nonsense=1)


def test_tied_tensors_stay_tied_under_random_draws():
    base, members = family(2)
    for state in (base, *members):
        state["tied.weight"] = state["head.weight"]
    merged = merge(base, members, find_merge_method("dare")())
    assert torch.equal(merged["tied.weight"], merged["head.weight"])


def test_negative_variances_do_not_come_out():
    base, members = family(3)
    for member in members:
        member["norm.running_var"] = base["norm.running_var"] * 0.1
    merged = merge(base, members, find_merge_method("task_arithmetic")(scale=1.0))
    assert (merged["norm.running_var"] >= 0).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m[1].pop("head.weight"), "head.weight"),
        (lambda m: m[1].update({"head.weight": torch.zeros(3, 12, dtype=torch.float64)}), r"\(9, 12\).*\(3, 12\)"),
        (lambda m: m[1].update({"head.weight": m[1]["head.weight"].half()}), "float16"),
        (lambda m: m[1]["linear.bias"].__setitem__(0, float("nan")), "member 1.*linear.bias"),
        (lambda m: m[0]["linear.bias"].__setitem__(0, float("inf")), "member 0.*linear.bias"),
        (lambda m: [m[1].pop(n) for n in list(m[1])[:5]], "and 2 more"),
        (lambda m: m.clear(), "at least one member"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, match):
    base, members = family(2)
    change(members)
    with pytest.raises(ValueError, match=match):
        merge(base, members, find_merge_method("ties")(density=0.2))


def test_missing_and_foreign_statistics_are_refused():
    from amalgam.tasks.merging.staged import digest

    base, members = family(2)
    fisher = find_merge_method("fisher")()
    with pytest.raises(ValueError, match="fisher"):
        merge(base, members, fisher)
    with pytest.raises(ValueError, match="2 members, got 1"):
        merge(base, members, fisher, [{}])
    known = statistics_of(members).fisher
    staged = Statistics(fisher=known, models=tuple(map(digest, members)))
    swapped = Statistics(fisher=known[::-1], models=staged.models[::-1])
    one, other = merge(base, members, fisher, staged), merge(base, members, fisher, swapped)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="other weights"):
        merge(base, family(2, seed=9)[1], fisher, staged)
