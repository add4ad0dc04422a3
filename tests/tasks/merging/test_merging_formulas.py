"""Every method against its own formula, written down again without the solver."""

import numpy as np
import pytest
import torch

from amalgam import (
    TSVM,
    Average,
    Breadcrumbs,
    Dare,
    Fisher,
    IsoC,
    Karcher,
    KnOTS,
    ModelStock,
    RegMean,
    Slerp,
    TaskArithmetic,
    Ties,
    WiSE,
    Wudi,
    merge,
)
from amalgam.tasks.merging.staged import Statistics
from tests.tasks.merging.families import family, statistics_of

CLOSE = {"rtol": 1e-6, "atol": 1e-8}
FLOATS = ("embedding.weight", "linear.weight", "linear.bias", "conv.weight", "norm.running_mean", "logit_scale")


@pytest.fixture(scope="module")
def nets():
    return family(4)


def deltas(nets, name):
    base, members = nets
    return torch.stack([member[name] - base[name] for member in members])


def same(merged, name, expected):
    torch.testing.assert_close(merged[name], expected, **CLOSE)


@pytest.mark.parametrize("name", FLOATS)
def test_linear_methods(nets, name):
    base, members = nets
    stack = torch.stack([member[name] for member in members])
    weights = (0.1, 0.2, 0.3, 0.4)
    same(merge(None, members, Average()), name, stack.mean(0))
    same(
        merge(None, members, Average(weights=weights)),
        name,
        torch.einsum("t,t...->...", torch.tensor(weights).double(), stack),
    )
    same(merge(base, members, TaskArithmetic(scale=0.7)), name, base[name] + 0.7 * deltas(nets, name).sum(0))
    same(merge(base, members[:1], WiSE(alpha=0.25)), name, 0.75 * base[name] + 0.25 * members[0][name])


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("name", FLOATS)
def test_ties(nets, name, density):
    base, members = nets
    kept = []
    for delta in deltas(nets, name).numpy():
        count = max(1, round(density * delta.size))
        smallest = np.sort(np.abs(delta).ravel())[::-1][count - 1]
        kept.append(np.where(np.abs(delta) >= smallest, delta, 0))
    kept = np.stack(kept)
    agree = (np.sign(kept) == np.sign(kept.sum(0))) & (kept != 0)
    mean = np.where(agree.sum(0) > 0, (kept * agree).sum(0) / np.maximum(1, agree.sum(0)), 0)
    same(merge(base, members, Ties(density=density, scale=0.8)), name, base[name] + 0.8 * torch.from_numpy(mean))


def test_ties_that_agree_and_keep_all_are_the_mean(nets):
    base, members = nets
    up = [{n: base[n] + (m[n] - base[n]).abs() if m[n].is_floating_point() else m[n] for n in m} for m in members]
    same(merge(base, up, Ties(density=1.0)), "linear.weight", torch.stack([u["linear.weight"] for u in up]).mean(0))


def test_dare_is_unbiased_over_seeds_and_exact_when_it_keeps_all(nets):
    base, members = nets
    expected = merge(base, members, TaskArithmetic(scale=0.5))
    same(merge(base, members, Dare(density=1.0, scale=0.5)), "linear.weight", expected["linear.weight"])
    draws = torch.stack([merge(base, members, Dare(density=0.5, scale=0.5, seed=s))["linear.bias"] for s in range(400)])
    # The mean of 400 draws lies within five of its standard errors.
    error = draws.std(0) / 20
    assert ((draws.mean(0) - expected["linear.bias"]).abs() <= 5 * error).all()


def test_breadcrumbs_drop_both_ends_and_keep_small_tensors(nets):
    base, members = nets
    merged = merge(base, members, Breadcrumbs(density=0.5, gamma=0.1, scale=0.4))
    kept = []
    for delta in deltas(nets, "linear.weight").flatten(1):
        order = delta.abs().argsort(descending=True)[9 : 9 + 48]
        kept.append(torch.zeros_like(delta).index_copy(0, order, delta[order]))
    same(merged, "linear.weight", base["linear.weight"] + 0.4 * sum(kept).view(12, 8))
    assert not torch.equal(merged["logit_scale"], base["logit_scale"])


def test_tsvm_is_the_orthogonalised_sum_of_truncated_matrices(nets):
    base, members = nets
    parts = [np.linalg.svd(delta.numpy(), full_matrices=False) for delta in deltas(nets, "linear.weight")]
    u = np.concatenate([p[0][:, :2] for p in parts], 1)
    v = np.concatenate([p[2][:2].T for p in parts], 1)
    s = np.concatenate([p[1][:2] for p in parts])
    u, v = ((lambda f: f[0] @ f[2])(np.linalg.svd(x, full_matrices=False)) for x in (u, v))
    expected = base["linear.weight"] + 0.9 * torch.from_numpy(u * s @ v.T)
    same(merge(base, members, TSVM(scale=0.9, rank=2)), "linear.weight", expected)


def test_tsvm_of_one_task_is_its_truncation(nets):
    base, members = nets
    u, s, v = torch.linalg.svd(deltas(nets, "linear.weight")[0], full_matrices=False)
    same(merge(base, members[:1], TSVM(rank=3)), "linear.weight", base["linear.weight"] + (u[:, :3] * s[:3]) @ v[:3])
    same(merge(base, members[:1], TSVM()), "linear.weight", members[0]["linear.weight"])


def test_iso_c_has_a_flat_spectrum(nets):
    base, members = nets
    total = deltas(nets, "head.weight").sum(0)
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    same(merge(base, members, IsoC(scale=1.2)), "head.weight", base["head.weight"] + 1.2 * s.mean() * u @ v)


def test_knots_that_keep_all_and_agree_are_the_mean(nets):
    base, members = nets
    stacked = torch.cat(list(deltas(nets, "head.weight")), 1)
    u, s, v = torch.linalg.svd(stacked, full_matrices=False)
    parts = torch.stack(v.chunk(4, 1))
    agree = parts.sign() == parts.sum(0).sign()
    mean = (parts * agree).sum(0) / agree.sum(0)
    same(merge(base, members, KnOTS(density=1.0)), "head.weight", base["head.weight"] + u * s @ mean)


@pytest.mark.parametrize("name", FLOATS)
def test_fisher(nets, name):
    _, members = nets
    known = statistics_of(members)
    stack = torch.stack([member[name] for member in members])
    fisher = torch.stack([one[name] for one in known.fisher])
    expected = (fisher * stack).sum(0) / fisher.sum(0)
    merged = merge(None, members, Fisher(), known)
    same(merged, name, expected)
    assert (merged[name] >= stack.amin(0) - 1e-12).all() and (merged[name] <= stack.amax(0) + 1e-12).all()
    raised = Statistics(fisher=tuple({n: 3 * f for n, f in one.items()} for one in known.fisher))
    same(merge(None, members, Fisher(), raised), name, expected)


def test_fisher_of_one_infinitely_sure_member_is_that_member_and_zeros_are_the_mean(nets):
    _, members = nets
    known = [{n: torch.zeros_like(t) for n, t in m.items() if t.is_floating_point()} for m in members]
    stack = torch.stack([member["linear.weight"] for member in members])
    same(merge(None, members, Fisher(), known), "linear.weight", stack.mean(0))
    known[2]["linear.weight"] += 1e30
    same(merge(None, members, Fisher(floor=1e-6), known), "linear.weight", stack[2])


@pytest.mark.parametrize("share", [1.0, 0.9, 0.0])
def test_reg_mean(nets, share):
    _, members = nets
    known = statistics_of(members)
    top, bottom = torch.zeros(8, 12, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
    for member, grams in zip(members, known.grams, strict=True):
        gram = share * grams["linear.weight"] + (1 - share) * grams["linear.weight"].diag().diag()
        top, bottom = top + gram @ member["linear.weight"].T, bottom + gram
    merged = merge(None, members, RegMean(off_diagonal=share), known)
    same(merged, "linear.weight", torch.linalg.solve(bottom, top).T)
    by_module = [{n.removesuffix(".weight"): g for n, g in one.items()} for one in known.grams]
    same(merge(None, members, RegMean(off_diagonal=share), by_module), "linear.weight", merged["linear.weight"])
    same(merged, "linear.bias", torch.stack([m["linear.bias"] for m in members]).mean(0))


def test_wudi_is_the_minimum_of_its_objective(nets):
    base, members = nets
    parts = deltas(nets, "linear.weight")
    merged = (merge(base, members, Wudi())["linear.weight"] - base["linear.weight"]).requires_grad_()
    loss = sum(((merged - d) @ d.T).square().sum() / d.square().sum() for d in parts)
    (slope,) = torch.autograd.grad(loss, merged)
    assert float(slope.abs().max()) < 1e-10


def test_model_stock(nets):
    base, members = nets
    flat = deltas(nets, "linear.weight").flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True)
    cosine = float((unit @ unit.T).triu(1).sum() / 6)
    share = 4 * cosine / (1 + 3 * cosine)
    mean = torch.stack([m["linear.weight"] for m in members]).mean(0)
    same(merge(base, members, ModelStock()), "linear.weight", share * mean + (1 - share) * base["linear.weight"])
    across = [dict(base), dict(base)]
    for place, member in enumerate(across):
        member["linear.bias"] = base["linear.bias"] + torch.eye(12, dtype=torch.float64)[place]
    same(merge(base, across, ModelStock()), "linear.bias", base["linear.bias"])


def test_slerp_and_karcher():
    one, other = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = other * one.norm() / other.norm()
    angle = torch.arccos(one @ other / one.norm() ** 2)
    ends = [{"w": one}, {"w": other}]
    expected = (torch.sin(0.7 * angle) * one + torch.sin(0.3 * angle) * other) / torch.sin(angle)
    same(merge(None, ends, Slerp(t=0.3)), "w", expected)
    same(merge(None, ends, Karcher()), "w", merge(None, ends, Slerp(t=0.5))["w"])
    for method in (Slerp(), Karcher()):
        same(merge(None, [{"w": one}, {"w": one * 3}], method), "w", 2 * one)
        same(merge(None, [{"w": one}, {"w": -one}], method), "w", 0 * one)


def test_karcher_mean_is_where_the_tangents_cancel():
    points = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    mean = merge(None, [{"w": p} for p in points], Karcher(iterations=100, tolerance=1e-12))["w"]
    unit, units = mean / mean.norm(), points / points.norm(dim=1, keepdim=True)
    cosines = units @ unit
    tangents = (units - cosines[:, None] * unit) * (cosines.arccos() / cosines.arccos().sin())[:, None]
    assert float(tangents.mean(0).norm()) < 1e-10
    assert float(mean.norm()) == pytest.approx(float(points.norm(dim=1).mean()))
