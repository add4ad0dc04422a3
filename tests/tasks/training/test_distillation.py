"""Distillation lowers the divergence from the ensemble, reads no labels, and is zero at the ensemble itself."""

import pytest
import torch

from amalgam.tasks.data.loading import Batch
from amalgam.tasks.fusion import PartialOT, fuse
from amalgam.tasks.training.distillation import Distillation
from tests.tasks.fusion.networks import example, networks


def batch(seed: int = 0) -> Batch:
    x = example("mlp", batch=12)
    labels = torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed))
    return Batch(torch.arange(12), x, labels)


def test_the_exact_ensemble_has_no_divergence_and_labels_do_not_matter():
    members, x = networks("mlp_gelu", 2), example("mlp")
    objective = Distillation(members, (0.3, 0.7))
    ensemble = fuse(members, PartialOT(alpha=1.0), x, (0.3, 0.7))
    assert float(objective(ensemble, batch(), 1)[1].detach()) == pytest.approx(0.0, abs=1e-12)
    losses = {float(objective(members[0], batch(seed), 1)[1].detach()) for seed in range(3)}
    assert len(losses) == 1 and losses.pop() > 1e-6


def test_the_gradient_leads_to_the_ensemble_and_teachers_get_none():
    members = networks("mlp_gelu", 3)
    objective = Distillation(members[1:], (0.5, 0.5))
    optimizer = torch.optim.Adam(members[0].parameters(), 1e-2)
    first = float(objective(members[0], batch(), 1)[1].detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = objective(members[0], batch(), 1)[1]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * first
    assert all(p.grad is None for teacher in members[1:] for p in teacher.parameters())


def test_weights_that_do_not_fit_the_teachers_are_refused():
    with pytest.raises(ValueError, match=r"2 teachers, \d weights"):
        Distillation(networks("mlp_gelu", 2), (1.0,))
