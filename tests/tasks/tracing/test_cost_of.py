"""Costs agree with closed formulas."""

import pytest
import torch
from torch import nn

from amalgam.tasks.models import ModelSpec, build
from amalgam.tasks.tracing.cost import Cost, cost_of

CIFAR = {"num_classes": 10, "in_shape": (3, 32, 32)}


def test_a_linear_network_costs_two_operations_a_weight():
    module = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 28, 28), options={"bias": False}), 0)
    cost = cost_of(module, torch.rand(32, 1, 28, 28))
    assert (cost.parameters, cost.nonzero_parameters) == (99_400, 99_400)
    assert (cost.flops, cost.nonzero_flops) == (2 * 99_400, 2 * 99_400) and cost.latency_ms > 0


def test_a_convolution_costs_its_weights_at_every_pixel():
    module = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    cost = cost_of(module, torch.rand(1, 3, 32, 32))
    assert cost.flops == 2 * (8 * 3 * 3 * 3) * 16 * 16 and cost.parameters == 8 * 27 + 8


def test_resnet18_costs_what_is_published():
    cost = cost_of(build(ModelSpec(name="resnet18", **CIFAR), 0), torch.rand(1, 3, 32, 32))
    assert cost.flops / 2 == pytest.approx(0.56e9, rel=0.01)  # 0.56 G multiply-adds, github.com/kuangliu/pytorch-cifar


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_structural_zeros_are_not_counted(share):
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 4))
    allowed = torch.zeros(4, 8 * 16, dtype=torch.bool)
    allowed[:, : round(share * 8 * 16)] = True
    cost = cost_of(module, torch.rand(1, 3, 4, 4), {"2.weight": allowed})
    assert cost.parameters - cost.nonzero_parameters == (1 - share) * 4 * 8 * 16
    assert cost.flops == 2 * 8 * 3 * 16 + 2 * 4 * 8 * 16
    assert cost.nonzero_flops == 2 * 8 * 3 * 16 + share * 2 * 4 * 8 * 16


def test_a_lone_layer_is_a_network_too():
    cost = cost_of(nn.Linear(6, 4), torch.rand(1, 6), {"weight": torch.arange(24).reshape(4, 6) % 2 == 0})
    assert (cost.flops, cost.nonzero_flops, cost.nonzero_parameters) == (48, 24, 16)


def test_attention_is_counted():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, scores_and_means = 2 * (4 * 16 * 16 + 2 * 16 * 32) * 5, 2 * 2 * 16 * 5 * 5
    assert cost_of(layer, torch.rand(1, 5, 16)).flops == projections + scores_and_means


def test_the_cost_of_an_ensemble_is_the_sum():
    both = Cost(5, 4, 30, 20, 1.5) + Cost(1, 1, 2, 2, 0.25)
    assert both == Cost(6, 5, 32, 22, 1.75)


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    cost_of(module, (torch.rand(4, 3, 8, 8),))
    assert module.training and module[1].num_batches_tracked == 0
