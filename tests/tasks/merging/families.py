"""Random networks with a common start, and statistics of them."""

import torch
from torch import Tensor, nn

from amalgam.tasks.merging.staged import Statistics

State = dict[str, Tensor]


class Net(nn.Module):
    """Every kind of tensor that a state dict holds: embedding, linear, conv, norms, buffers, a scalar, an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.linear = nn.Linear(8, 12)
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.layer_norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 9, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("position_ids", torch.arange(5))


def family(
    count: int, seed: int = 0, spread: float = 0.1, dtype: torch.dtype = torch.float64
) -> tuple[State, list[State]]:
    """A base and `count` members around it."""
    torch.manual_seed(seed)
    base = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    return cast(base, dtype), [cast(near(base, spread), dtype) for _ in range(count)]


def near(base: State, spread: float) -> State:
    """Random weights around the base; variances stay positive, integers count on."""
    return {name: _moved(name, tensor, spread) for name, tensor in base.items()}


def _moved(name: str, tensor: Tensor, spread: float) -> Tensor:
    if not tensor.is_floating_point():
        return tensor + 7
    variance = name.endswith("running_var")
    return tensor * (1 + spread * torch.rand_like(tensor)) if variance else tensor + spread * torch.randn_like(tensor)


def cast(state: State, dtype: torch.dtype) -> State:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def statistics_of(members: list[State], seed: int = 1) -> Statistics:
    """Random Fisher information and Grams, a score, one kind of each for every member."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    floats = {name: t for name, t in members[0].items() if t.is_floating_point()}
    matrices = {name: t for name, t in floats.items() if t.ndim == 2}
    fisher = tuple({name: random(*t.shape).square() for name, t in floats.items()} for _ in members)
    samples = [{name: random(40, t.shape[1]) for name, t in matrices.items()} for _ in members]
    return Statistics(
        fisher=fisher,
        factored=tuple({n: torch.cat([one[n].sum(1), one[n].sum(0)]) for n in matrices} for one in fisher),
        grams=tuple({name: x.T @ x for name, x in one.items()} for one in samples),
        score=lambda state: float(state["linear.bias"].double().sum()),
        live_grams=FixedGrams([{name: x.T @ x for name, x in one.items()} for one in samples]),
    )


class FixedGrams:
    """Grams that do not depend on what is merged below."""

    def __init__(self, grams: list[State]) -> None:
        self.grams, self.layers = grams, tuple(grams[0])

    def gram(self, member: int, name: str, merged: State) -> Tensor:
        return self.grams[member][name]
