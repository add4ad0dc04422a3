"""Laws of the refit: it never moves away from its target, keeps zeros, and does nothing where fusion is exact."""

import pytest
import torch
from torch import nn

from amalgam.tasks.fusion import PartialOT, Refit, fuse, merge, support
from amalgam.tasks.fusion.fitting.normal_equations import NormalEquations
from amalgam.tasks.fusion.fitting.refit import refit
from amalgam.tasks.fusion.fitting.walk import Walk
from amalgam.tasks.fusion.unit_map import maps_of, unit_maps
from amalgam.tasks.tracing.axes import OUTPUT
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.architectures import TransformerClassifier, group_norm_resnet
from tests.tasks.fusion.networks import NETWORKS, example, mlp, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
WEIGHTS = {2: (0.3, 0.7), 3: (0.2, 0.5, 0.3)}
each_network = pytest.mark.parametrize("kind", NETWORKS)


def ensemble(members, weights, x):
    return sum(weight * member(x) for weight, member in zip(weights, members, strict=True))


@each_network
@pytest.mark.parametrize("count", [2])
def test_refit_changes_nothing_at_alpha_one(kind, count):
    members, x = networks(kind, count), example(kind, batch=16)
    fused = fuse(members, PartialOT(alpha=1.0), x, WEIGHTS[count], calibration=[x[:9], x[9:]])
    torch.testing.assert_close(fused(x), ensemble(members, WEIGHTS[count], x), **EXACT)


@each_network
def test_refit_changes_nothing_where_all_weight_is_on_one_member(kind):
    members, x = networks(kind, 2), example(kind, batch=16)
    fused = fuse(members, PartialOT(alpha=0.33), x, (1.0, 0.0), calibration=[x])
    torch.testing.assert_close(fused(x), members[0](x), **EXACT)


@each_network
@pytest.mark.parametrize(("count", "alpha"), [(2, 0.0), (3, 0.4)])
def test_no_layer_moves_away_from_its_target_and_zeros_stay_zero(kind, count, alpha):
    members, x = networks(kind, count), example(kind, batch=24)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    couplings = PartialOT(alpha=alpha)(axes, states).couplings()
    merged = merge(members, axes, couplings, WEIGHTS[count])
    maps = unit_maps(couplings, WEIGHTS[count], axes.sizes(states[0])[OUTPUT])
    allowed, errors = support(axes, couplings, merged), []
    fitted = refit(
        merged, members, axes, maps, [x], support=allowed, log=lambda name, *both: errors.append((name, *both))
    )
    assert {name for name, *_ in errors} == {n for n, p in merged.named_parameters() if p.ndim > 1}
    assert all(after <= before for _, before, after in errors) and any(after < before for _, before, after in errors)
    for name, entries in allowed.items():
        assert not fitted.state_dict()[name][~entries].any()


@each_network
def test_refit_brings_the_network_closer_to_the_ensemble_on_other_inputs(kind):
    members, x = networks(kind, 2), example(kind, batch=300)
    plain = fuse(members, PartialOT(alpha=0.2), x)
    fitted = fuse(members, PartialOT(alpha=0.2), x, calibration=[x[:200]])
    wanted = ensemble(members, (0.5, 0.5), x[200:])
    before, after = (float((net(x[200:]) - wanted).square().mean().detach()) for net in (plain, fitted))
    assert after < 0.5 * before


class Separable(nn.Module):
    """A depthwise and a grouped convolution, the first with a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm, self.grouped = nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3, groups=4)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(x)))))
        return self.head(torch.tanh(self.grouped(x)).mean((2, 3)))


class RootNormed(nn.Module):
    """A stream that is normalised by its root mean square, attention with one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.RMSNorm(16, eps=1e-6)
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x):
        h = self.norm(self.embed(x))
        return self.head((h + self.attention(h, h, h, need_weights=False)[0]).mean(1))


FITTED = {
    "separable": (Separable, (3, 6, 6), {"depthwise.weight", "grouped.weight"}),
    "root_normed": (RootNormed, (7, 6), {"norm.weight", "attention.in_proj_weight", "attention.out_proj.weight"}),
    "transformer": (TransformerClassifier, (7, 6), {"encoder.layers.0.norm1.weight", "encoder.layers.1.norm2.weight",
                                                    "encoder.layers.0.self_attn.in_proj_weight"}),
    "group_norm": (group_norm_resnet, (3, 6, 6), {"1.weight", "3.norm1.weight", "4.norm2.weight"}),
}  # fmt: skip
"""Kind -> how to make it, the shape of an input, and parameters that are fitted besides dense layers."""


@pytest.mark.parametrize("kind", FITTED)
@torch.no_grad()
def test_grouped_convolutions_norms_and_attention_are_fitted(kind):
    torch.manual_seed(0)
    make, shape, wanted = FITTED[kind]
    members, x = [make().double().eval() for _ in range(2)], torch.randn(40, *shape).double()
    for net in members:
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    whole = fuse(members, PartialOT(alpha=1.0), x[:2], (0.3, 0.7), calibration=[x])
    torch.testing.assert_close(whole(x), ensemble(members, (0.3, 0.7), x), rtol=0, atol=1e-8)
    one = fuse(members, PartialOT(alpha=0.5), x[:2], (0.0, 1.0), calibration=[x])
    torch.testing.assert_close(one(x), members[1](x), rtol=0, atol=1e-8)
    axes, states = trace(members[0], x[:2]), [m.state_dict() for m in members]
    couplings, errors = PartialOT(alpha=0.5)(axes, states).couplings(), {}
    merged, maps = merge(members, axes, couplings, (0.3, 0.7)), maps_of(axes, states, couplings, (0.3, 0.7))
    allowed = support(axes, couplings, merged)

    def log(name, before, after):
        errors[name] = (before, after)

    fitted = refit(merged, members, axes, maps, [x], support=allowed, log=log)
    assert wanted <= set(errors)
    assert all(after <= before for before, after in errors.values())
    assert all(errors[name][1] < errors[name][0] for name in wanted)
    for name, entries in allowed.items():
        assert not fitted.state_dict()[name][~entries].any()
    target = ensemble(members, (0.3, 0.7), x)
    assert (fitted(x) - target).square().mean() < 0.5 * (merged(x) - target).square().mean()


def test_a_fitted_first_layer_is_the_ridge_regression_on_its_target():
    members, x = networks("mlp_gelu", 2), example("mlp", batch=50)
    axes, states = trace(members[0], x), [m.state_dict() for m in members]
    couplings = PartialOT(alpha=0.0)(axes, states).couplings()
    merged, maps = merge(members, axes, couplings, (0.5, 0.5)), unit_maps(couplings, (0.5, 0.5), 4)
    fitted = refit(merged, members, axes, maps, [x], how=Refit(ridge=0.1))
    target = sum(member[:3](x) @ m.merge.T for member, m in zip(members, maps["2"], strict=True))
    hidden = torch.cat([fitted[:2](x), torch.ones(50, 1, dtype=x.dtype)], 1).detach()
    start = torch.cat([merged[2].weight, merged[2].bias[:, None]], 1).detach()
    penalty = torch.full((hidden.shape[1],), 0.1 * float((hidden[:, :-1] ** 2).sum() / (hidden.shape[1] - 1)))
    penalty[-1] = 0
    rows = torch.cat([hidden, penalty.double().sqrt().diag()])
    wanted = torch.linalg.lstsq(rows, torch.cat([target, penalty.double().sqrt()[:, None] * start.T])).solution.T
    found = torch.cat([fitted[2].weight, fitted[2].bias[:, None]], 1)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-7, atol=1e-7)


def test_sums_of_shards_are_those_of_all_rows_in_any_order():
    generator = torch.Generator().manual_seed(0)
    h, e = (torch.randn(60, n, generator=generator, dtype=torch.float64) for n in (5, 3))
    shards = [NormalEquations.of(h[i::7], e[i::7]) for i in (3, 0, 6, 2, 5, 1, 4)]
    total = sum(shards[1:], shards[0])
    wanted = NormalEquations.of(h, e).solve(0.01, None, has_bias=False)
    torch.testing.assert_close(total.solve(0.01, None, has_bias=False), wanted, **EXACT)
    assert total.num_rows == 60


@pytest.mark.slow
def test_a_norm_behind_a_fitted_convolution_holds_the_statistics_of_its_inputs():
    members, x = networks("resnet", 2), example("resnet", batch=20)
    fused = fuse(members, PartialOT(alpha=0.3), x, calibration=[x], refit=Refit(rows_per_feature=1000))
    stem = fused.stem(x).movedim(1, 0).flatten(1)
    torch.testing.assert_close(fused.bn.running_mean, stem.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fused.bn.running_var, stem.var(1, correction=0), rtol=1e-6, atol=1e-6)


def test_a_head_fitted_to_probabilities_predicts_their_mean():
    torch.manual_seed(0)
    members = [mlp(widths=(40,)).double().eval() for _ in range(2)]
    for member in members:
        nn.init.normal_(member[-1].weight)
    x = example("mlp", batch=200)
    mean = sum(0.5 * member(x).softmax(1) for member in members).detach()
    logits, probabilities = (
        fuse(members, PartialOT(alpha=1.0), x, calibration=[x], refit=Refit(head=head))(x).softmax(1).detach()
        for head in ("logits", "probabilities")
    )
    assert (probabilities - mean).square().mean() < (logits - mean).square().mean()


def test_refit_without_images_is_refused():
    with pytest.raises(ValueError, match="calibration batch"):
        fuse(networks("mlp_gelu", 2), PartialOT(alpha=0.2), example("mlp"), calibration=[])


@pytest.mark.parametrize("ridge", [0.0, -1.0])
def test_a_ridge_that_is_not_positive_is_refused(ridge):
    with pytest.raises(ValueError, match="ridge"):
        Refit(ridge=ridge)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, 1),
        nn.Conv1d(4, 6, 4, stride=2, padding=1, dilation=2),
        nn.Linear(4, 6),
    ],
    ids=["conv2d", "grouped", "pointwise", "conv1d", "linear"],
)
def test_rows_of_outputs_are_weights_times_features_at_the_same_positions(layer):
    axes = {nn.Conv2d: (9, 8), nn.Conv1d: (11,), nn.Linear: ()}[type(layer)]
    network, x = nn.Sequential(layer, nn.ReLU()).double().eval(), torch.randn(5, 4, *axes, dtype=torch.float64)
    walk, expected = Walk(network, (x,)), network[0](x)
    found = walk.before("0.weight")
    kept = torch.arange(0, found.num_rows(expected), 3)
    features = found.features(walk.input_of(found), kept)
    weights = layer.weight.flatten(1)
    if features.ndim == 3:  # one table for each group of the convolution
        weights = weights.unflatten(0, (2, -1))
    outputs = features @ weights.mT + found.parted(layer.bias.expand(len(kept), -1))
    torch.testing.assert_close(outputs, found.parted(found.rows(expected, kept)), **EXACT)
    torch.testing.assert_close(walk.output_of(found, final=True), expected, **EXACT)
