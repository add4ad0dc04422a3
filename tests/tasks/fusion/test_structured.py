"""A structured network is the dense one: the same function, no stored zeros, exportable, and of the ensemble's cost."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from amalgam.tasks.fusion import PartialOT, merge, support
from amalgam.tasks.fusion.rebuild.block_layers import BlockConvolution, BlockLayer, BlockLinear, Segments
from amalgam.tasks.fusion.structured import structured
from amalgam.tasks.tracing.cost import cost_of
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, mlp, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
each_network = pytest.mark.parametrize("kind", NETWORKS)


def both(kind: str, count: int, alpha: float):
    """The dense fused network and the structured one, every layer as blocks; axes and couplings."""
    members, x = networks(kind, count), example(kind)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    couplings = PartialOT(alpha=alpha)(axes, states).couplings()
    dense = merge(members, axes, couplings, (1 / count,) * count)
    blocks = structured(dense, axes, couplings)
    return dense.eval(), blocks, support(axes, couplings, dense), members


@each_network
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("alpha", [0.6, 0.9, 1.0])
def test_structured_is_dense_without_its_zeros(kind, count, alpha):
    dense, blocks, allowed, _ = both(kind, count, alpha)
    x = example(kind, batch=5)
    torch.testing.assert_close(blocks(x), dense(x), **EXACT)
    for path, layer in blocks.named_modules():
        if isinstance(layer, BlockLayer):
            weight = dense.get_submodule(path).weight
            assert torch.equal(layer.dense_weight(), weight)
            stored = sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
            assert stored == int(allowed[f"{path}.weight"].sum()) < weight.numel()


@each_network
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_at_alpha_one_a_structured_network_costs_what_the_ensemble_costs(kind, count):
    _, blocks, _, members = both(kind, count, 1.0)
    x = example(kind)
    assert any(isinstance(layer, BlockLayer) for layer in blocks.modules())
    assert cost_of(blocks, x).flops == sum(cost_of(member, x).flops for member in members)
    assert cost_of(blocks, x).parameters <= sum(cost_of(member, x).parameters for member in members)


def test_at_alpha_zero_nothing_is_replaced():
    _, blocks, _, _ = both("cnn", 2, 0.0)
    assert not any(isinstance(layer, BlockLayer) for layer in blocks.modules())


@pytest.mark.parametrize("kind", ["mlp_gelu", "cnn", "resnet"])
def test_structured_networks_export_and_keep_their_blocks_in_safetensors(kind):
    dense, blocks, _, _ = both(kind, 2, 0.9)
    x = example(kind)
    program = torch.export.export(blocks, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), dense(x), **EXACT)
    empty = structured(dense, *_again(kind))
    for parameter in empty.parameters():
        nn.init.zeros_(parameter)
    empty.load_state_dict(load(save({name: t.contiguous() for name, t in blocks.state_dict().items()})))
    torch.testing.assert_close(empty(x), dense(x), **EXACT)


def _again(kind: str):
    members = networks(kind, 2)
    axes = trace(members[0], example(kind))
    return axes, PartialOT(alpha=0.9)(axes, [m.state_dict() for m in members]).couplings()


def test_structured_networks_can_be_trained():
    dense, blocks, _, _ = both("mlp_gelu", 2, 0.6)
    x = example("mlp")
    grads = []
    for net in (dense, blocks):
        net(x).square().sum().backward()
        grads.append(net[0].weight.grad)
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize(("rows", "columns"), [((3, (2, 4)), (1, (5, 2))), ((0, (2, 3)), (2, (1, 1)))])
def test_members_of_different_widths_have_uneven_blocks(rows, columns):
    rows, columns = Segments(*rows), Segments(*columns)
    for dense, kind, shape in (
        (nn.Linear(columns.shared + sum(columns.alone), rows.shared + sum(rows.alone)), BlockLinear, (4, -1)),
        (
            nn.Conv2d(columns.shared + sum(columns.alone), rows.shared + sum(rows.alone), 3),
            BlockConvolution,
            (4, -1, 5, 5),
        ),
    ):
        mask = torch.zeros(dense.weight.shape[:2])
        mask[: rows.shared], mask[:, : columns.shared] = 1, 1
        for r, c in zip(rows.blocks, columns.blocks, strict=True):
            mask[r, c] = 1
        with torch.no_grad():
            dense.weight.mul_(mask.reshape(*mask.shape, *[1] * (dense.weight.ndim - 2)))
        x = torch.randn([dense.weight.shape[1] if n == -1 else n for n in shape])
        torch.testing.assert_close(kind(dense, rows, columns)(x), dense(x), rtol=1e-5, atol=1e-5)


def test_the_measured_choice_computes_the_same():
    members, x = [mlp(widths=(60, 60)).eval() for _ in range(2)], example("mlp", batch=64).float()
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    couplings = PartialOT(alpha=0.8)(axes, states).couplings()
    dense = merge(members, axes, couplings, (0.5, 0.5)).eval()
    torch.testing.assert_close(structured(dense, axes, couplings, example=x)(x), dense(x), rtol=1e-4, atol=1e-5)
