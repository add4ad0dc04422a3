"""Small random networks of every kind that the fusion engine claims to carry."""

import copy
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.axes import OUTPUT, Axes

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def mlp(activation: str = "gelu", widths: tuple[int, ...] = (9, 7)) -> nn.Module:
    layers: list[nn.Module] = []
    sizes = (6, *widths)
    for one, two in pairwise(sizes):
        layers += [nn.Linear(one, two), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(sizes[-1], 4))


def cnn() -> nn.Module:
    """Strides, padding, both poolings, a flatten of 2x2 pixels, a bias-free layer and a per-unit PReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.PReLU(6, init=0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, bias=False),
        nn.SiLU(),
        nn.AvgPool2d(2, stride=1, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.Tanh(),
        nn.Linear(10, 5),
    )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.skip(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 10, 2))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.stem(x))))
        return self.head(x.mean((2, 3)))


def resnet() -> nn.Module:
    net = ResNet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


NETWORKS = {
    "mlp_relu": lambda: mlp("relu"),
    "mlp_gelu": mlp,
    "cnn": cnn,
    "resnet": resnet,
}


def example(kind: str, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (batch, 6) if kind.startswith("mlp") else (batch, 3, 9, 9)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def networks(kind: str, count: int, seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    return [NETWORKS[kind]().double().eval() for _ in range(count)]


def permuted(module: nn.Module, axes: Axes, orders: Mapping[str, Tensor]) -> nn.Module:
    """A copy whose hidden units are renumbered: unit `orders[g][i]` of the old network becomes unit i."""
    state = {}
    for name, tensor in module.state_dict().items():
        for index, axis in enumerate(axes.of[name]):
            if axis and axis.group != OUTPUT:
                entries = orders[axis.group][:, None] * axis.repeat + torch.arange(axis.repeat)
                tensor = tensor.index_select(index, entries.flatten())
        state[name] = tensor
    twin = copy.deepcopy(module)
    twin.load_state_dict(state)
    return twin


def random_orders(axes: Axes, module: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = axes.sizes(module.state_dict())
    return {group: torch.randperm(sizes[group], generator=generator) for group in axes.groups}
