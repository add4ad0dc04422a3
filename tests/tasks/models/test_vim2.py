"""ViM2: the scan is its recurrence, mixers have their symmetries, weighted skips are what they are made to start as."""

import open_clip
import pytest
import timm
import torch
from timm.models.mlp_mixer import MixerBlock
from torch import nn

from amalgam import PartialOT, TaskArithmetic, fuse, merge
from amalgam.tasks.models import ModelSpec, build
from amalgam.tasks.models.vim2.mixers import (
    BothWays,
    Causal,
    CrossScan,
    SelectiveScan,
    mixer_of_channels,
    mixer_of_tokens,
)
from amalgam.tasks.models.vim2.networks import TSM2, ViM2
from amalgam.tasks.models.vim2.scan import discretise, parallel_scan
from amalgam.tasks.models.vim2.sizes import vim2_parameters
from amalgam.tasks.models.vim2.skips import WeightedBlocks, WeightedStack

TINY = {"width": 8, "depths": (2, 1), "states": 2}


def sequential_scan(decay, drive):
    """States (b, t, d, n) of the recurrence, one step after another."""
    state = torch.zeros_like(drive[:, 0])
    states = []
    for step in range(drive.shape[1]):
        state = decay[:, step] * state + drive[:, step]
        states.append(state)
    return torch.stack(states, dim=1)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 31])
def test_parallel_scan_is_the_recurrence(length):
    decay, drive = torch.sigmoid(noise(2, length, 3, 4)), noise(2, length, 3, 4, seed=1)
    torch.testing.assert_close(parallel_scan(decay, drive), sequential_scan(decay, drive))


def test_gradients_of_both_scans_agree():
    drive = noise(2, 11, 3, 2).requires_grad_()
    decay = torch.sigmoid(noise(2, 11, 3, 2, seed=1)).requires_grad_()
    found, expected = (
        torch.autograd.grad((scan(decay, drive) * noise(2, 11, 3, 2, seed=2)).sum(), (decay, drive))
        for scan in (parallel_scan, sequential_scan)
    )
    torch.testing.assert_close(found, expected)


def test_a_step_of_size_zero_leaves_the_state():
    rates = -torch.ones(3, 2, dtype=torch.float64)
    decay, drive = discretise(torch.zeros(2, 5, 3, dtype=torch.float64), rates, noise(2, 5, 2), noise(2, 5, 3))
    assert torch.equal(decay, torch.ones_like(decay)) and torch.equal(drive, torch.zeros_like(drive))


def test_small_steps_follow_the_differential_equation():
    # h' = A h + B x with constant x reaches B x / -A, whatever the step.
    rates, x = -torch.full((1, 1), 2.0, dtype=torch.float64), torch.full((1, 400, 1), 3.0, dtype=torch.float64)
    delta, inputs = torch.full_like(x, 0.05), torch.full((1, 400, 1), 0.5, dtype=torch.float64)
    states = parallel_scan(*discretise(delta, rates, inputs, x))
    assert states[0, -1].item() == pytest.approx(0.75)


@pytest.mark.parametrize("mixer", [SelectiveScan(6, 3), Causal(6, 3)], ids=["selective", "with convolution"])
def test_a_token_mixer_does_not_see_the_future(mixer):
    mixer = mixer.double()
    x = noise(2, 9, 6)
    changed = torch.cat([x[:, :5], noise(2, 4, 6, seed=1)], dim=1)
    torch.testing.assert_close(mixer(x)[:, :5], mixer(changed)[:, :5])
    assert not torch.allclose(mixer(x)[:, 5:], mixer(changed)[:, 5:])


def test_a_mixer_of_both_directions_flips_with_its_input():
    mixer = BothWays(5, 3).double()
    x = noise(2, 8, 5)
    torch.testing.assert_close(mixer(x.flip(1)), mixer(x).flip(1))


def test_a_cross_scan_turns_with_its_image():
    mixer = CrossScan(4, 2, (3, 3)).double()
    with torch.no_grad():  # a convolution that is the same along rows and columns
        weight = mixer.convolution.weight
        weight.copy_((weight + weight.transpose(2, 3)) / 2)
    image = noise(2, 4, 3, 3)
    turned = mixer(image.transpose(2, 3).flatten(2).transpose(1, 2))
    mixer.directions = nn.ModuleList(mixer.directions[index] for index in (2, 3, 0, 1))
    torch.testing.assert_close(
        turned, mixer(image.flatten(2).transpose(1, 2)).unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)
    )


def linears(depth, width=4):
    return [nn.Linear(width, width).double() for _ in range(depth)]


def test_a_stack_that_reads_the_newest_feature_is_a_plain_stack():
    tokens, channels = linears(3), linears(3)
    x = noise(2, 5, 4)
    expected = x
    for token, channel in zip(tokens, channels, strict=True):
        expected = channel(token(expected))
    torch.testing.assert_close(WeightedStack(tokens, channels, start="last").double()(x), expected)


def test_a_stack_of_token_mixers_alone_is_vmamba():
    """beta = 0, alpha = delta, theta = delta, gamma = 0: no channel mixer is read but the last, here the identity."""
    tokens, channels = [CrossScan(4, 2, (2, 3)) for _ in range(3)], [*linears(2), nn.Identity()]
    stack = WeightedStack(tokens, channels).double()
    for layer, (of_tokens, of_channels) in enumerate(zip(stack.for_tokens, stack.for_channels, strict=True)):
        for weights, newest in ((of_tokens, layer), (of_channels, layer + 1)):
            weights.data = torch.eye(len(weights), dtype=torch.float64)[newest]
    x = noise(2, 6, 4)
    expected = nn.Sequential(*tokens).double()(x)
    torch.testing.assert_close(stack(x), expected)


class Nothing(nn.Module):
    """Adds nothing to a residual stream."""

    def forward(self, x):
        return torch.zeros_like(x)


def test_mixers_without_scans_are_those_of_timm():
    width, sides = 6, (2, 4)
    theirs = MixerBlock(width, 8, mlp_ratio=(16 / width, 2)).double()
    token, channel = mixer_of_tokens("mlp", width, sides, 2), mixer_of_channels("mlp", width, 8, 2)
    pairs = ((token, theirs.norm1, theirs.mlp_tokens), (channel, theirs.norm2, theirs.mlp_channels))
    for mixer, norm, mlp in pairs:
        first, last = [module for module in mixer.modules() if isinstance(module, nn.Linear)]
        for ours, copied in ((mixer[0], norm), (first, mlp.fc1), (last, mlp.fc2)):
            ours.load_state_dict(copied.state_dict())
        mixer[0].eps = norm.eps
    x = noise(2, 8, width)
    stack = WeightedStack([token, Nothing()], [channel, nn.Identity()]).double()
    torch.testing.assert_close(stack(x), theirs(x))


def test_a_stack_starts_as_a_residual_network():
    tokens, channels = linears(2), linears(2)
    x = noise(2, 5, 4)
    stream = x + tokens[0](x)
    stream = stream + channels[0](stream)
    stream = stream + tokens[1](stream)
    torch.testing.assert_close(WeightedStack(tokens, channels).double()(x), channels[1](stream))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_stack_has_as_many_coefficients_as_the_paper_counts_and_all_learn(depth):
    stack = WeightedStack(linears(depth), linears(depth)).double()
    weights = [*stack.for_tokens, *stack.for_channels]
    assert sum(len(one) for one in weights) == depth * (2 * depth + 3)
    stack(noise(2, 5, 4)).square().sum().backward()
    assert all(bool((one.grad != 0).all()) for one in weights)


def test_weighted_blocks_start_as_the_blocks_of_a_vision_transformer():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=3, num_classes=5
    ).eval()
    images = noise(2, 3, 32, 32, dtype=torch.float32)
    before = vit(images)
    vit.blocks = WeightedBlocks(vit.blocks)
    torch.testing.assert_close(vit(images), before)


def test_weighted_blocks_start_as_the_blocks_of_open_clip():
    vision = {"image_size": 16, "layers": 3, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    tower = open_clip.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text).visual.eval()
    images = noise(2, 3, 16, 16, dtype=torch.float32)
    before = tower(images)
    tower.transformer.resblocks = nn.ModuleList([WeightedBlocks(tower.transformer.resblocks)])
    torch.testing.assert_close(tower(images), before)


def weighted_vit(seed):
    torch.manual_seed(seed)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=12, num_heads=3, num_classes=5
    )
    vit.blocks = WeightedBlocks(vit.blocks)
    for weights in vit.blocks.weights:
        nn.init.normal_(weights)
    return vit.double().eval()


def test_transformers_with_weighted_blocks_fuse_to_their_ensemble():
    one, two, images = weighted_vit(0), weighted_vit(1), noise(2, 3, 16, 16)
    fused = fuse([one, two], PartialOT(alpha=1.0), example=images, weights=(0.3, 0.7))
    torch.testing.assert_close(fused(images), 0.3 * one(images) + 0.7 * two(images))
    torch.testing.assert_close(fuse([one, one], PartialOT(alpha=0.5), example=images)(images), one(images))


@pytest.mark.parametrize("token_mixer", ["selective", "mlp"])
@pytest.mark.parametrize("channel_mixer", ["selective", "mlp"])
@pytest.mark.parametrize("in_shape", [(3, 32, 32), (1, 8, 16)])
def test_vim2_gives_logits_of_its_classes(token_mixer, channel_mixer, in_shape):
    spec = ModelSpec(
        name="vim2_tiny",
        num_classes=7,
        in_shape=in_shape,
        options=TINY | {"token_mixer": token_mixer, "channel_mixer": channel_mixer},
    )
    assert build(spec, 0)(torch.zeros(2, *in_shape)).shape == (2, 7)


@pytest.mark.parametrize("side", [32, 96, 224])
def test_vim2_tiny_is_as_large_as_its_name_says(side):
    spec = ModelSpec(name="vim2_tiny", num_classes=10, in_shape=(3, side, side))
    with torch.device("meta"):
        network = ViM2(10, (3, side, side), **spec.options)
    assert 1e6 < sum(parameter.numel() for parameter in network.parameters()) < 5e6


@pytest.mark.parametrize("token_mixer", ["selective", "mlp"])
@pytest.mark.parametrize("channel_mixer", ["selective", "mlp"])
@pytest.mark.parametrize("side, width, depths", [(32, 24, (1, 2)), (48, 40, (2,)), (16, 10, (1, 1, 1))])
def test_parameters_are_counted_without_making_them(token_mixer, channel_mixer, side, width, depths):
    options = {"width": width, "depths": depths, "states": 3} | {
        "token_mixer": token_mixer,
        "channel_mixer": channel_mixer,
    }
    spec = ModelSpec(name="vim2_tiny", num_classes=7, in_shape=(2, side, side), options=options)
    counted = vim2_parameters(7, (2, side, side), spec.options)
    assert counted == sum(parameter.numel() for parameter in build(spec, 0).parameters())


@pytest.mark.parametrize(
    "in_shape, options, value",
    [((3, 30, 32), {}, r"multiples of 8.*\(3, 30, 32\)"), ((3, 32, 32), {"depths": ()}, "depths.*1 item")],
)
def test_sizes_that_make_no_network_are_refused(in_shape, options, value):
    with pytest.raises(ValueError, match=value):
        ModelSpec(name="vim2_tiny", num_classes=2, in_shape=in_shape, options=TINY | options)


def test_forecasts_follow_scale_and_shift_of_their_series():
    model = TSM2(num_series=3, length=24, horizon=6, depth=1, states=2).double()
    x = noise(2, 24, 3)
    scale, shift = torch.tensor([2.0, 0.5, 3.0]), torch.tensor([1.0, -4.0, 0.0])
    torch.testing.assert_close(model(x * scale + shift), model(x) * scale + shift, rtol=1e-4, atol=1e-4)


def test_tsm2_learns_a_sine():
    torch.manual_seed(0)
    times = torch.arange(30)[None, :, None] * 0.5 + torch.rand(64, 1, 2) * 6
    series = torch.sin(times)
    model = TSM2(num_series=2, length=24, horizon=6, depth=1, states=2)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        loss = (model(series[:, :24]) - series[:, 24:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * series[:, 24:].var().item()


def test_members_with_a_common_start_merge():
    spec = ModelSpec(name="vim2_tiny", num_classes=3, in_shape=(1, 8, 8), options=TINY)
    start = build(spec, 0).state_dict()
    members = [{key: tensor + 0.01 * step for key, tensor in start.items()} for step in (1, 3)]
    network = build(spec, 1)
    network.load_state_dict(merge(start, members, TaskArithmetic(scale=0.5)))
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, start[key] + 0.02)


@pytest.mark.parametrize("mixer, layer", [("selective", "SelectiveScan"), ("mlp", "Linear")])
def test_fusion_names_the_layer_that_units_cannot_be_carried_through(mixer, layer):
    spec = ModelSpec(name="vim2_tiny", num_classes=3, in_shape=(1, 8, 8), options=TINY | {"token_mixer": mixer})
    with pytest.raises(ValueError, match=rf"stages\.0\.tokens\.0\..* \({layer}\)"):
        fuse([build(spec, seed) for seed in (0, 1)], PartialOT(alpha=0.5), example=torch.zeros(2, 1, 8, 8))
