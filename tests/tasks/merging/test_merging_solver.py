"""The solver: its special cases, its optimum, its heterogeneity, and EpiMer on top of it."""

import pytest
import torch

from amalgam import TSVM, EpiMer, merge
from amalgam.tasks.merging.geometry.bases import task_atoms
from amalgam.tasks.merging.geometry.metrics import Dense, Diagonal, project_diagonal, project_factored, project_samples
from amalgam.tasks.merging.geometry.signs import elect, kth_largest
from amalgam.tasks.merging.geometry.solver import average, objective, solve, solve_diagonal
from amalgam.tasks.merging.staged import Statistics
from tests.tasks.merging.families import family

CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(size, count, seed=0):
    return [Dense(x.T @ x / size) for x in random(count, size + 3, size, seed=seed)]


def test_solution_is_the_minimum_and_eta_is_what_the_flat_mean_loses():
    points, metrics, weights = list(random(4, 6)), spd(6, 4), (0.1, 0.2, 0.3, 0.4)
    found = solve(points, metrics, weights)
    variable = found.point.clone().requires_grad_()
    loss = sum(w * (variable - x) @ h.matrix @ (variable - x) for x, h, w in zip(points, metrics, weights, strict=True))
    (slope,) = torch.autograd.grad(loss, variable)
    assert float(slope.abs().max()) < 1e-12
    lost = objective(found.flat, points, metrics, weights) - objective(found.point, points, metrics, weights)
    assert found.eta == pytest.approx(lost, rel=1e-10) and found.eta > 0


def test_eta_vanishes_for_equal_curvatures_and_for_equal_tasks():
    points, metrics = list(random(4, 6)), spd(6, 4)
    assert solve(points, [metrics[0]] * 4).eta == pytest.approx(0, abs=1e-12)
    assert solve([points[0]] * 4, metrics).eta == pytest.approx(0, abs=1e-12)


def test_diagonal_metrics_as_matrices_give_the_diagonal_solve():
    points, values = list(random(3, 5)), list(random(3, 5, seed=1).square())
    full = solve(points, [Dense(v.diag()) for v in values])
    torch.testing.assert_close(solve_diagonal(points, [Diagonal(v) for v in values]), full.point, **CLOSE)
    torch.testing.assert_close(average(points), torch.stack(points).mean(0), **CLOSE)


def test_sign_election_is_the_solve_with_a_metric_of_ones_and_zeros():
    points = list(random(5, 40))
    sign = sum(points).sign()
    metrics = [Diagonal((point * sign > 0).double()) for point in points]
    torch.testing.assert_close(elect(points), solve_diagonal(points, metrics, fallback=0 * sign), **CLOSE)


def test_singular_and_zero_curvature_leave_the_flat_mean_in_directions_without_data():
    points = list(random(3, 5))
    blind = Dense(torch.diag(torch.tensor([1.0, 1, 0, 0, 0], dtype=torch.float64)))
    found = solve(points, [blind, blind.damped(0), Dense(2 * blind.matrix)])
    torch.testing.assert_close(found.point[2:], torch.stack(points).mean(0)[2:], **CLOSE)
    zero = solve(points, [Dense(0 * blind.matrix)] * 3)
    torch.testing.assert_close(zero.point, zero.flat, **CLOSE)


def test_large_systems_are_solved_like_small_ones():
    points, metrics = list(random(2, 3, 300)), spd(300, 2)
    found = solve(points, metrics)
    total = sum(h.matrix for h in metrics) / 2
    right = sum(x @ h.matrix for x, h in zip(points, metrics, strict=True)) / 2
    torch.testing.assert_close(found.point, torch.linalg.solve(total, right.T).T, **CLOSE)


def test_atoms_are_orthonormal_and_lift_inverts_coordinates_on_their_span():
    atoms = task_atoms(list(random(3, 10, 9)), 3)
    matrices = torch.einsum("mp,np->pmn", atoms.left, atoms.right).flatten(1)
    torch.testing.assert_close(matrices @ matrices.T, torch.eye(9, dtype=torch.float64), **CLOSE)
    inside = random(9, seed=3)
    torch.testing.assert_close(atoms.coordinates(atoms.lift(inside)), inside, **CLOSE)


def test_projected_fishers_equal_brute_force_and_are_positive():
    atoms, fisher = task_atoms(list(random(2, 7, 6)), 3), random(7, 6, seed=4).square()
    kernel = torch.einsum("mp,np->mnp", atoms.left, atoms.right).reshape(42, 6)
    exact = kernel.T @ fisher.flatten().diag() @ kernel
    torch.testing.assert_close(project_diagonal(fisher, atoms.left, atoms.right).matrix, exact, **CLOSE)
    assert float(torch.linalg.eigvalsh(exact)[0]) > -1e-12
    rank_one = torch.outer(fisher[:, 0], fisher[0])
    factors = torch.cat([rank_one.sum(1), rank_one.sum(0)])
    full = project_diagonal(rank_one, atoms.left, atoms.right).matrix
    torch.testing.assert_close(project_factored(factors, atoms.left, atoms.right).matrix, full, **CLOSE)
    gradients = random(20, 7, 6, seed=5)
    seen = torch.stack([atoms.coordinates(g) for g in gradients])
    whole = gradients.flatten(1).T @ gradients.flatten(1) / 20
    torch.testing.assert_close(project_samples(seen).matrix, kernel.T @ whole @ kernel, **CLOSE)


@pytest.mark.parametrize("size", [5, 70_000, 200_000])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 1.0])
def test_thresholds_are_exact(size, share):
    values = random(size).abs()
    values[: size // 3] = values[0]  # many ties
    count = max(1, round(share * size))
    assert kth_largest(values, count) == values.sort(descending=True).values[count - 1]


def fisher_of(members, value=None):
    floats = {n: t for n, t in members[0].items() if t.is_floating_point()}
    return [
        {
            n: torch.full_like(t, value) if value is not None else random(*t.shape, seed=i + 9).square()
            for n, t in floats.items()
        }
        for i, _ in enumerate(members)
    ]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1e6])
@pytest.mark.parametrize("normalize", ["trace", "mean", "none"])
def test_epimer_of_equal_curvatures_is_tsvm(value, normalize):
    base, members = family(3)
    known = fisher_of(members, value)
    curved = merge(base, members, EpiMer(rank=2, scale=0.8, normalize=normalize), known)
    flat = merge(base, members, TSVM(rank=2, scale=0.8))
    for name in curved:
        torch.testing.assert_close(curved[name], flat[name], **CLOSE)


def test_epimer_ignores_constants_common_to_all_tasks_and_own_ones_when_normalised():
    base, members = family(3)
    known = fisher_of(members)
    scaled = [{n: 10 ** (i - 1) * f for n, f in one.items()} for i, one in enumerate(known)]
    raised = [{n: 7 * f for n, f in one.items()} for one in known]
    by_trace, raw = EpiMer(rank=2), EpiMer(rank=2, normalize="none")
    name = "linear.weight"
    one = merge(base, members, by_trace, known)[name]
    torch.testing.assert_close(merge(base, members, by_trace, scaled)[name], one, **CLOSE)
    torch.testing.assert_close(merge(base, members, raw, raised)[name], merge(base, members, raw, known)[name], **CLOSE)
    assert not torch.allclose(merge(base, members, raw, scaled)[name], merge(base, members, raw, known)[name])


def test_epimer_logs_eta_and_diagonal_curvature_amplifies_atoms_by_the_number_of_tasks_at_most():
    base, members = family(3)
    facts = {}
    merge(base, members, EpiMer(rank=2), fisher_of(members), log=lambda n, f: facts.setdefault(n, f))
    assert set(facts) == {"embedding.weight", "linear.weight", "head.weight"}
    assert all(found["eta"] >= -1e-10 and found["condition"] >= 1 for found in facts.values())
    points = list(torch.block_diag(*random(3, 1, 2).abs()))
    metrics = [Dense(v.diag()) for v in random(3, 6, seed=2).square()]
    gain = 3 * solve(points, metrics).point / torch.stack(points).sum(0)
    assert float(gain.min()) >= 0 and float(gain.max()) <= 3


def test_epimer_rank_is_that_of_its_atoms_and_frechet_is_a_third_of_the_sum():
    base, members = family(3)
    known = fisher_of(members)
    name = "linear.weight"
    summed = merge(base, members, EpiMer(rank=1), known)[name] - base[name]
    assert int(torch.linalg.matrix_rank(summed, rtol=1e-9)) == 3
    mean = merge(base, members, EpiMer(rank=1, aggregate="frechet"), known)[name] - base[name]
    torch.testing.assert_close(3 * mean, summed, **CLOSE)


@pytest.mark.parametrize("method", [TSVM(), EpiMer()])
def test_collinear_members_fall_back_to_the_mean_and_say_so(method):
    base, members = family(1)
    twice = {n: base[n] + 2 * (t - base[n]) if t.is_floating_point() else t for n, t in members[0].items()}
    facts = {}
    merged = merge(base, [members[0], twice], method, fisher_of([members[0]] * 2), lambda n, f: facts.setdefault(n, f))
    mean = (members[0]["linear.weight"] + twice["linear.weight"]) / 2
    torch.testing.assert_close(merged["linear.weight"], mean, **CLOSE)
    assert facts["linear.weight"]["fallback"].startswith("mean")


def test_projected_gradients_of_another_rank_are_refused():
    base, members = family(2)
    wrong = Statistics(projected=tuple({"linear.weight": random(5, 3)} for _ in members))
    with pytest.raises(ValueError, match="3 coordinates"):
        merge(base, members, EpiMer(curvature="projected"), wrong)
