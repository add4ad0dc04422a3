"""Every operation that the tracing rules claim, on its own: recorded, grouped, and fused exactly on random networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.merging import merge
from amalgam.tasks.tracing.axes import Axis
from amalgam.tasks.tracing.nodes import operation_of
from amalgam.tasks.tracing.rules.table import POINTWISE, RULES
from amalgam.tasks.tracing.trace import trace

aten = torch.ops.aten
SHAPES = {"vector": (6,), "tokens": (5, 6), "signal": (3, 4), "image": (3, 4, 4), "volume": (3, 4, 4, 4), "words": (5,)}
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "vector": nn.Linear,
    "tokens": nn.Linear,
    "signal": lambda one, two: nn.Conv1d(one, two, 1),
    "image": lambda one, two: nn.Conv2d(one, two, 1),
    "volume": lambda one, two: nn.Conv3d(one, two, 1),
    "words": nn.Linear,
}
UNITS = 8


class Around(nn.Module):
    """A layer, one operation, and a layer that reads its result."""

    def __init__(self, kind: str, operation: Callable[..., Any], features: int = UNITS, after: str = "") -> None:
        super().__init__()
        inputs = SHAPES[kind][-1 if kind in ("vector", "tokens") else 0]
        self.before = nn.Embedding(20, UNITS) if kind == "words" else LAYERS[kind](inputs, UNITS)
        self.operation = operation() if isinstance(operation, type) or operation in MODULES else operation
        self.after = LAYERS[after or kind](features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operation(self.before(x)))


class Product(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(UNITS, UNITS))

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h, self.weight)


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(UNITS))

    def forward(self, h: Tensor) -> Tensor:
        return F.prelu(h, self.slope)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.cells = kind(UNITS, UNITS, batch_first=True, **options)

    def forward(self, h: Tensor) -> Tensor:
        return self.cells(h)[0]


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(UNITS))

    def forward(self, h: Tensor) -> Tensor:
        return F.rms_norm(h, (UNITS,), self.weight)


def heads(h: Tensor) -> Tensor:
    return h.unflatten(-1, (2, 4)).transpose(1, 2)


def joined(h: Tensor) -> Tensor:
    return h.transpose(1, 2).flatten(2)


def scores(product: Callable[[Tensor, Tensor], Tensor], h: Tensor) -> Tensor:
    one = heads(h).flatten(0, 1)
    return joined(product(product(one, one.mT), one).unflatten(0, (-1, 2)))


MODULES: dict[Callable[..., Any], str] = {}


def made(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A case whose operation has parameters: made anew for each member."""
    MODULES[make] = ""
    return make


def pool(name: str, kind: str, **options: Any) -> tuple[str, Callable[[Tensor], Tensor]]:
    return kind, lambda h: getattr(F, name)(h, 2, **options)


SPATIAL = {1: "signal", 2: "image", 3: "volume"}
CASES: dict[str, tuple[Any, ...]] = {
    "linear": ("vector", nn.Identity),
    **{f"conv{d}d": (SPATIAL[d], nn.Identity) for d in SPATIAL},
    "conv_transpose1d": ("signal", made(lambda: nn.ConvTranspose1d(UNITS, UNITS, 2, groups=2))),
    "conv_transpose2d": ("image", made(lambda: nn.ConvTranspose2d(UNITS, UNITS, 2))),
    "conv_transpose3d": ("volume", made(lambda: nn.ConvTranspose3d(UNITS, UNITS, 2))),
    "batch_norm": ("image", made(lambda: nn.BatchNorm2d(UNITS))),
    "instance_norm": ("image", made(lambda: nn.InstanceNorm2d(UNITS, affine=True))),
    "layer_norm": ("tokens", made(lambda: nn.LayerNorm(UNITS))),
    "group_norm": ("image", made(lambda: nn.GroupNorm(2, UNITS))),
    "local_response_norm": ("image", made(lambda: nn.LocalResponseNorm(4, alpha=0.5))),
    "rms_norm": ("tokens", Root),
    "prelu": ("vector", Slope),
    "embedding": ("words", nn.Identity),
    "lstm": ("tokens", made(lambda: Recurrent(nn.LSTM))),
    "gru": ("tokens", made(lambda: Recurrent(nn.GRU, bidirectional=True)), 2 * UNITS),
    "rnn_tanh": ("tokens", made(lambda: Recurrent(nn.RNN))),
    "rnn_relu": ("tokens", made(lambda: Recurrent(nn.RNN, nonlinearity="relu"))),
    "mean": ("image", lambda h: h.mean((2, 3)), UNITS, "vector"),
    "sum": ("image", lambda h: h.sum((2, 3)), UNITS, "vector"),
    "linalg_vector_norm": ("image", lambda h: h / torch.linalg.vector_norm(h, dim=1, keepdim=True)),
    "amax": ("image", lambda h: h.amax((2, 3)), UNITS, "vector"),
    "amin": ("image", lambda h: h.amin((2, 3)), UNITS, "vector"),
    "softmax": ("tokens", lambda h: h.softmax(1)),
    "log_softmax": ("tokens", lambda h: h.log_softmax(1)),
    "_softmax": ("tokens", lambda h: aten._softmax(h, 1, False)),
    "cumsum": ("tokens", lambda h: h.cumsum(1)),
    "matmul": ("tokens", made(lambda: Product(torch.matmul))),
    "mm": ("vector", made(lambda: Product(torch.mm))),
    "bmm": ("tokens", lambda h: scores(torch.bmm, h)),
    "scaled_dot_product_attention": ("tokens", lambda h: joined(F.scaled_dot_product_attention(*[heads(h)] * 3))),
    "cat": ("image", lambda h: torch.cat([h, h.tanh()], 1), 2 * UNITS),
    "concat": ("image", lambda h: aten.concat([h.exp(), h], 1), 2 * UNITS),
    "constant_pad_nd": ("image", lambda h: aten.constant_pad_nd(h, [1, 1], 0.5)),
    "pad": ("image", lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect")),
    "pixel_shuffle": ("image", lambda h: F.pixel_shuffle(h, 2), UNITS // 4),
    "pixel_unshuffle": ("image", lambda h: F.pixel_unshuffle(h, 2), UNITS * 4),
    "getitem": ("image", lambda h: h.split(2, 2)[1]),
    "expand": ("image", lambda h: h.mean(3, keepdim=True).expand(-1, -1, -1, 3)),
    "expand_as": ("image", lambda h: h.mean(3, keepdim=True).expand_as(h)),
    "broadcast_to": ("image", lambda h: aten.broadcast_to(h.mean(3, keepdim=True), h.shape)),
    # What only moves entries.
    "flatten": ("image", lambda h: h.flatten(1), UNITS * 16, "vector"),
    "view": ("image", lambda h: h.view(-1, UNITS, 16), UNITS, "signal"),
    "reshape": ("image", lambda h: aten.reshape(h, [-1, UNITS, 16]), UNITS, "signal"),
    "_unsafe_view": ("image", lambda h: aten._unsafe_view(h, [len(h), UNITS, 16]), UNITS, "signal"),
    "squeeze": ("image", lambda h: h.mean(3, keepdim=True).squeeze(3), UNITS, "signal"),
    "unsqueeze": ("signal", lambda h: h.unsqueeze(3), UNITS, "image"),
    "unflatten": ("tokens", lambda h: h.unflatten(1, (1, 5)).relu().flatten(1, 2)),
    "view_as": ("image", lambda h: h.view_as(h.exp())),
    "reshape_as": ("image", lambda h: aten.reshape_as(h, h.exp())),
    "permute": ("image", lambda h: h.permute(0, 2, 3, 1), UNITS, "tokens"),
    "transpose": ("signal", lambda h: h.transpose(1, 2), UNITS, "tokens"),
    "t": ("vector", lambda h: h.t().relu().t()),
    "movedim": ("image", lambda h: h.movedim(1, -1), UNITS, "tokens"),
    "swapaxes": ("signal", lambda h: aten.swapaxes(h, 1, 2), UNITS, "tokens"),
    "slice": ("image", lambda h: h[:, :, 1:]),
    "select": ("tokens", lambda h: h[:, 0], UNITS, "vector"),
    "narrow": ("image", lambda h: h.narrow(2, 1, 2)),
    "chunk": ("image", lambda h: torch.mul(*h.chunk(2, 1)), UNITS // 2),
    "split": ("image", lambda h: torch.add(*h.split(4, 1)), UNITS // 2),
    "split_with_sizes": ("image", lambda h: torch.cat(h.split([2, 6], 1)[::-1], 1)),
    "unbind": ("tokens", lambda h: h.unbind(1)[2], UNITS, "vector"),
    "roll": ("image", lambda h: h.roll(1, 2)),
    "flip": ("image", lambda h: h.flip(3)),
    "repeat": ("image", lambda h: h.repeat(1, 1, 2, 1)),
    "repeat_interleave": ("image", lambda h: h.repeat_interleave(2, 3)),
    "index_select": ("image", lambda h: h.index_select(2, torch.tensor([2, 0]))),
    "channel_shuffle": ("image", lambda h: F.channel_shuffle(h, 2)),
    "numpy_T": ("vector", lambda h: h.T.relu().T),
    "mT": ("signal", lambda h: h.mT, UNITS, "tokens"),
    # What leaves entries as they are.
    "contiguous": ("image", lambda h: h.permute(0, 1, 3, 2).contiguous()),
    "clone": ("vector", torch.clone),
    "detach": ("vector", torch.detach),
    "alias": ("vector", aten.alias),
    "to": ("vector", lambda h: h.to(torch.float64)),
    "_to_copy": ("vector", lambda h: aten._to_copy(h, dtype=torch.float64)),
    "lift_fresh_copy": ("vector", aten.lift_fresh_copy),
    "dropout": ("vector", made(lambda: nn.Dropout(0.5))),
    "feature_dropout": ("image", made(lambda: nn.Dropout2d(0.5))),
    # What changes positions.
    **{f"{kind}_pool{d}d": pool(f"{kind}_pool{d}d", SPATIAL[d]) for kind in ("max", "avg") for d in SPATIAL},
    **{f"adaptive_{kind}_pool{d}d": pool(f"adaptive_{kind}_pool{d}d", SPATIAL[d])
       for kind in ("max", "avg") for d in SPATIAL},
    **{name: (SPATIAL[d], lambda h, mode=mode: F.interpolate(h, scale_factor=2.0, mode=mode))
       for name, d, mode in (("upsample_nearest1d", 1, "nearest"), ("upsample_nearest2d", 2, "nearest"),
                             ("upsample_nearest3d", 3, "nearest"), ("upsample_linear1d", 1, "linear"),
                             ("upsample_bilinear2d", 2, "bilinear"), ("upsample_bicubic2d", 2, "bicubic"),
                             ("upsample_trilinear3d", 3, "trilinear"))},
    "grid_sampler": ("image", lambda h: F.grid_sample(
        h, torch.zeros(len(h), 2, 2, 2, dtype=h.dtype) + 0.3, align_corners=False)),
    # What makes a value on the spot.
    "zeros": ("tokens", made(lambda: Recurrent(nn.LSTM))),
    "new_zeros": ("tokens", lambda h: h + h.new_zeros(h.shape[0], 5, UNITS)),
    "ones": ("tokens", lambda h: h + torch.ones(h.shape[0], 5, UNITS, dtype=h.dtype)),
    "new_ones": ("tokens", lambda h: h + h.new_ones(h.shape[0], 5, UNITS)),
    "full": ("tokens", lambda h: h + torch.full((h.shape[0], 1, UNITS), 2.0, dtype=h.dtype)),
    "new_full": ("tokens", lambda h: h + h.new_full((h.shape[0], 5, 1), 2.0)),
    "arange": ("tokens", lambda h: h * torch.arange(h.shape[0], dtype=h.dtype)[:, None, None]),
    "zeros_like": ("tokens", lambda h: h + torch.zeros_like(h)),
    "ones_like": ("tokens", lambda h: h * torch.ones_like(h)),
    "full_like": ("tokens", lambda h: h + torch.full_like(h, 2.0)),
    "empty": ("tokens", lambda h: h + torch.empty(h.shape[0], 5, 1, dtype=h.dtype).zero_()),
    "scalar_tensor": ("tokens", lambda h: h * torch.scalar_tensor(h.shape[0], dtype=h.dtype)),
    "_assert_tensor_metadata": ("vector", lambda h: h.to(torch.float64)),
    "sym_size": ("image", lambda h: h.view(h.shape[0], UNITS, 16), UNITS, "signal"),
    # What is elementwise without ATen saying so.
    **{name: ("vector", getattr(F, name)) for name in (
        "hardswish", "hardsigmoid", "hardtanh", "relu6", "selu", "celu", "mish", "softplus", "softshrink",
        "hardshrink", "rrelu", "elu", "gelu", "silu", "leaky_relu")},
    "log_sigmoid": ("vector", F.logsigmoid),
    "threshold": ("vector", lambda h: F.threshold(h, 0.1, 0.2)),
    "where": ("vector", lambda h: torch.where(h > 0, h, 0.3 * h)),
    "masked_fill": ("vector", lambda h: h.masked_fill(h > 0, 0.3)),
    "square": ("vector", torch.square),
    "logit": ("vector", lambda h: torch.logit(h.sigmoid() * 0.8 + 0.1)),
}  # fmt: skip


def member(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Around(*CASES[name]).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def inputs(name: str) -> Tensor:
    kind = CASES[name][0]
    generator = torch.Generator().manual_seed(5)
    if kind == "words":
        return torch.randint(20, (2, *SHAPES[kind]), generator=generator)
    return torch.randn(2, *SHAPES[kind], generator=generator, dtype=torch.float64)


def test_every_claim_has_a_case():
    assert set(CASES) == set(RULES) | set(POINTWISE)


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_claimed_operation_is_carried_exactly(name):
    (a, b), x = (member(name, seed) for seed in (0, 1)), inputs(name)
    axes = trace(a, x)
    program = axes.traced.program
    assert name in {operation_of(node) for node in program.graph.nodes if node not in program.static}
    sizes = axes.sizes(a.state_dict())
    assert "before" in " ".join(axes.groups)
    alone = {g: Coupling.from_matches(torch.empty(2, 0, dtype=torch.long), [sizes[g]] * 2) for g in axes.groups}
    # `merge` checks the groups on random networks of this shape, at random couplings, or raises.
    fused = merge([a, b], axes, alone, (0.3, 0.7))
    torch.testing.assert_close(fused(x), 0.3 * a(x) + 0.7 * b(x), rtol=0, atol=1e-9)


def unary() -> list[str]:
    """Elementwise functions of one tensor, by ATen's own tags."""
    found = []
    for name in dir(aten):
        overload = getattr(getattr(aten, name), "default", None) if name[0] != "_" and name[-1] != "_" else None
        if overload is None or torch.Tag.pointwise not in overload.tags or name.startswith(("bitwise", "cl")):
            continue  # those of whole numbers, and clamp without a bound
        required = [a for a in overload._schema.arguments if not a.has_default_value()]
        if len(required) == 1 and "Tensor" in str(required[0].type) and len(overload._schema.returns) == 1:
            found.append(name)
    return found


def test_whatever_aten_calls_elementwise_is_carried():
    names = unary()

    def each(h: Tensor) -> Tensor:
        parts = [getattr(aten, name)(h.sigmoid()).to(h.dtype).nan_to_num(0, 1, -1).clamp(-2, 2) for name in names]
        return sum(parts[1:], parts[0])

    torch.manual_seed(0)
    net, x = Around("vector", each).double().eval(), inputs("linear")
    axes = trace(net, x)
    assert axes.groups == ("before",)
    assert len(set(names) & {operation_of(node) for node in axes.traced.program.graph.nodes}) > 50
    assert axes.of["after.weight"][1] == Axis("before", reads=True)
