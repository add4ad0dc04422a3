"""End-point laws of fusion on public architectures, in double precision: which network keeps which law is the table."""

import pytest
import torch
from torch import Tensor, nn

from amalgam.tasks.fusion import PartialOT
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.merging import merge
from amalgam.tasks.fusion.rebuild.rebuilding import rebuilt
from amalgam.tasks.fusion.rebuild.tensors import merged_tensors
from amalgam.tasks.fusion.unit_map import maps_of
from amalgam.tasks.tracing.axes import Axes, Blocks
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.architectures import ARCHITECTURES, example_of, member_of

EXACT = 1e-9  # relative: far above rounding in double precision, far below any error
REFUSED = {"mixer_s32_224": "positions"}
"""Architecture -> what its refusal says."""
FAST = (
    "transformer_encoder",
    "bert",
    "unet",
    "group_norm_resnet",
    "lstm",
    "gru",
    "weight_norm_mlp",
    "cosine_head",
    "open_clip_vit",
    "tied_words",
    "padded_shortcut",
    "pixel_shuffle",
    "scalars",
    "tied_autoencoder",
    "transposed_autoencoder",
    "denoiser",
    "response_norms",
    "grouped_queries",
    "projected_lstm",
    "projected_lstms",
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries' own code
each_network = pytest.mark.parametrize(
    "name",
    [
        n if n in FAST else pytest.param(n, marks=(pytest.mark.slow, pytest.mark.proof))
        for n in ARCHITECTURES
        if n not in REFUSED
    ],
)


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < EXACT


@each_network
@torch.no_grad()
def test_architectures_keep_the_end_point_laws_in_batches_of_any_size(name):
    one, two, x = member_of(name, 0), member_of(name, 1), example_of(name, batch=3)
    axes, (first, second) = trace(one, x[:2]), (one(x), two(x))
    assert float((first - second).norm() / second.norm()) > 1e-3
    close(fused([one, two], axes, 1.0, (0.3, 0.7))(x), 0.3 * first + 0.7 * second)
    close(fused([one, two], axes, 0.5, (0.0, 1.0))(x), second)
    close(fused([one, one], axes, 0.5, (0.4, 0.6))(x), first)
    close(fused_with_a_permuted_copy(one, axes)(x), first)


@pytest.mark.parametrize("name", REFUSED)
def test_architectures_that_are_not_carried_are_refused_by_name(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        trace(member_of(name, 0), example_of(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["transformer_encoder", "group_norm_resnet", "unet", "padded_shortcut", "tied_autoencoder", "denoiser",
     "response_norms", "grouped_queries", "projected_lstms"],
)  # fmt: skip
@torch.no_grad()
def test_networks_fused_from_recorded_operations_can_be_fused_again(name):
    a, b, c, x = *(member_of(name, seed) for seed in range(3)), example_of(name)
    pair = fused([a, b], trace(a, x), 1.0, (0.5, 0.5))
    again = fused([pair, pair], trace(pair, x), 1.0, (0.5, 0.5))
    close(again(x), (a(x) + b(x)) / 2)
    assert not torch.equal(c(x), a(x))


def fused(members: list[nn.Module], axes: Axes, alpha: float, weights: tuple[float, ...]) -> nn.Module:
    method = PartialOT(alpha=alpha, max_sweeps=0)
    return merge(members, axes, method(axes, [m.state_dict() for m in members]).couplings(), weights)


def fused_with_a_permuted_copy(member: nn.Module, axes: Axes) -> nn.Module:
    """All units matched between a member and itself with every group renumbered at random."""
    blocks, sizes = axes.read(member.state_dict()), axes.sizes(member.state_dict())
    generator = torch.Generator().manual_seed(5)
    # Channels of a group norm may change places only together with their channel group, and those of a response norm
    # only with their neighbours, as in a reversal.
    is_grouped = any(isinstance(part, nn.GroupNorm | nn.LocalResponseNorm) for part in member.modules())
    orders = {
        g: Coupling((torch.arange(sizes[g]).flip(0) if is_grouped else torch.randperm(sizes[g], generator=generator),))
        for g in axes.groups
    }
    renumbered = merged_tensors(axes, [blocks], maps_of(axes, [blocks], orders, (1.0,)))
    states = [blocks, axes.read(Blocks(split(axes, renumbered)))]
    couplings = PartialOT(alpha=0.0)(axes, states).couplings()
    maps = maps_of(axes, states, couplings, (0.4, 0.6))
    return rebuilt(member, axes, merged_tensors(axes, states, maps), maps)


def split(axes: Axes, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The blocks of parameters whose segments lie side by side."""
    result = {}
    for block in axes.of:
        part = axes.parts.get(block)
        tensor = tensors[part.parameter if part else block]
        for axis, number in enumerate(part.segments if part else ()):
            if number is not None:
                lengths = [segment.entries.size for segment in axes.layouts[part.parameter][axis].segments]
                tensor = tensor.split(lengths, axis)[number]
        result[block] = tensor
    return result
