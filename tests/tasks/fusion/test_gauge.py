"""Scales of units on which a network's function does not depend do not change what fusion makes of it."""

import copy
import itertools

import pytest
import torch
from torch import nn

from amalgam.tasks.fusion import PartialOT, Ward, fuse
from amalgam.tasks.fusion.gauge import balanced
from amalgam.tasks.tracing.axes import OUTPUT
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
SAME = {"rtol": 1e-6, "atol": 1e-7}  # balancing stops when scales have settled
MAKERS = {
    "mlp_relu": {"0": ("0.weight", "0.bias"), "2": ("2.weight", "2.bias")},
    "cnn": {"0": ("0.weight", "0.bias")},
    "resnet": {
        "stem": ("bn.weight", "bn.bias", "blocks.0.bn2.weight", "blocks.0.bn2.bias"),
        "blocks.0.conv1": ("blocks.0.bn1.weight", "blocks.0.bn1.bias"),
    },
}
"""Network -> groups of positively homogeneous units, and the parameters that scale with them."""


def rescaled(kind: str, member: nn.Module, x: torch.Tensor, seed: int) -> nn.Module:
    """The same function: units scaled, their readers scaled back, convolutions before batch norm scaled."""
    generator = torch.Generator().manual_seed(seed)
    twin, axes = copy.deepcopy(member), trace(member, x)
    state = twin.state_dict()
    for group, makers in MAKERS[kind].items():
        scale = torch.randn(axes.sizes(state)[group], generator=generator, dtype=torch.float64).mul(0.7).exp()
        for name, index in axes.parameters_of(group):
            if axes.of[name][index].reads or name in makers:
                shape = [-1 if i == index else 1 for i in range(state[name].ndim)]
                state[name].mul_((1 / scale if axes.of[name][index].reads else scale).reshape(shape))
    if kind == "resnet":
        for conv, norm in ((twin.stem, twin.bn), (twin.blocks[0].conv2, twin.blocks[0].bn2)):
            scale = torch.randn(len(conv.weight), generator=generator, dtype=torch.float64).exp()
            conv.weight.data.mul_(scale.reshape(-1, 1, 1, 1))
            norm.running_mean.mul_(scale)
            norm.running_var.copy_(scale.square() * (norm.running_var + norm.eps) - norm.eps)
    torch.testing.assert_close(twin(x), member(x), **EXACT)
    return twin


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("alpha", [0.0, 0.33])
@pytest.mark.parametrize("with_images", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rescaled_members_fuse_into_the_same_function(kind, alpha, with_images):
    members, x = networks(kind, 2), example(kind, batch=8)
    twins = [rescaled(kind, member, x, seed) for seed, member in enumerate(members)]
    images = [x] if with_images else None
    one, two = (fuse(nets, PartialOT(alpha=alpha), x, (0.3, 0.7), calibration=images) for nets in (members, twins))
    torch.testing.assert_close(one(x), two(x), **SAME)


def test_functional_costs_do_not_depend_on_scales():
    members, x = networks("cnn", 2), example("cnn", batch=8)
    twins = [rescaled("cnn", member, x, seed) for seed, member in enumerate(members)]
    method = PartialOT(alpha=0.33, cost="functional")
    one, two = (fuse(nets, method, x, calibration=[x], refit=False) for nets in (members, twins))
    torch.testing.assert_close(one(x), two(x), **SAME)


def test_clusters_do_not_depend_on_scales_either():
    members, x = networks("mlp_relu", 2), example("mlp", batch=40)
    twins = [rescaled("mlp_relu", member, x, seed) for seed, member in enumerate(members)]
    one, two = (fuse(nets, Ward(), x, calibration=[x], refit=False) for nets in (members, twins))
    torch.testing.assert_close(one(x), two(x), **SAME)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_balanced_network_computes_the_same(kind):
    member, x = networks(kind, 1)[0], example(kind)
    same = balanced(member, trace(member, x), x)
    torch.testing.assert_close(same(x), member(x), **EXACT)
    if kind == "mlp_gelu":
        for name, tensor in member.state_dict().items():
            assert torch.equal(same.state_dict()[name], tensor)


def test_a_balanced_unit_is_made_and_read_with_the_same_norm():
    member, x = networks("mlp_relu", 1)[0], example("mlp")
    axes = trace(member, x)
    net = balanced(member, axes, x)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert OUTPUT not in axes.groups
    for one, two in itertools.pairwise(linear):
        made = one.weight.square().sum(1) + one.bias.square()
        torch.testing.assert_close(made, two.weight.square().sum(0), rtol=1e-8, atol=0)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.body(x))
        return {"one": self.one(hidden), "two": self.two(hidden)}


def test_every_output_of_a_network_with_several_stays_as_it_is():
    torch.manual_seed(0)
    member, x = TwoHeads().double(), example("mlp")
    same = balanced(member, trace(member, x), x)
    for name, output in member(x).items():
        torch.testing.assert_close(same(x)[name], output, **EXACT)
    made = same.body.weight.square().sum(1) + same.body.bias.square()
    read = same.one.weight.square().sum(0) + same.two.weight.square().sum(0)
    torch.testing.assert_close(made, read, rtol=1e-8, atol=0)
