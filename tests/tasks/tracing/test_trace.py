"""Tracing: the groups found are the true ones, and what cannot be carried is refused by name."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from amalgam.tasks.tracing.axes import Axis
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.networks import NETWORKS, example, networks, permuted, random_orders


@pytest.mark.parametrize("kind", NETWORKS)
def test_renumbering_units_along_the_traced_axes_leaves_the_function_unchanged(kind):
    member, x = networks(kind, 1)[0], example(kind)
    axes = trace(member, x)
    for seed in range(3):
        twin = permuted(member, axes, random_orders(axes, member, seed))
        torch.testing.assert_close(twin(x), member(x), rtol=0, atol=1e-9)


def test_a_flattened_map_is_one_group_repeated():
    axes = trace(networks("cnn", 1)[0], example("cnn"))
    assert axes.of["8.weight"] == (Axis("8"), Axis("3", reads=True, repeat=4))


def test_a_residual_stream_is_one_group():
    axes = trace(networks("resnet", 1)[0], example("resnet"))
    assert axes.groups == ("stem", "blocks.0.conv1", "blocks.1.conv1", "blocks.1.conv2")
    stem = {name for name, _ in axes.parameters_of("stem")}
    assert {
        "stem.weight",
        "bn.running_var",
        "blocks.0.conv2.weight",
        "blocks.0.bn2.bias",
        "blocks.1.skip.weight",
    } <= stem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "alexnet"])
def test_torchvision_classifiers_are_carried(name):
    torch.manual_seed(0)
    model, x = (
        torchvision.models.get_model(name, num_classes=5).double().eval(),
        torch.randn(2, 3, 64, 64).double(),
    )
    axes = trace(model, x)
    twin = permuted(model, axes, random_orders(axes, model, 0))
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_timm_resnet18_is_carried():
    import timm

    torch.manual_seed(0)
    model, x = (
        timm.create_model("resnet18", num_classes=5).double().eval(),
        torch.randn(2, 3, 64, 64).double(),
    )
    axes = trace(model, x)
    torch.testing.assert_close(permuted(model, axes, random_orders(axes, model, 0))(x), model(x), rtol=0, atol=1e-9)


class Odd(nn.Module):
    """Two layers around one operation."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.one, self.two, self.operation = nn.Linear(6, 6), nn.Linear(6, 6), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.operation(self.one(x), x))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda h, x: torch.softmax(h, 1), "softmax"),
        (lambda h, x: h.cumsum(1), "cumsum"),
        (lambda h, x: torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -128, 127), "quantise"),
        (lambda h, x: h.sort(1).values, "sort"),
        (lambda h, x: h + x, "tied to the network's input"),
        (lambda h, x: h * h.mean(), "mean"),
    ],
)
def test_an_operation_that_mixes_units_is_refused_by_name(operation, message):
    with pytest.raises(ValueError, match=message):
        trace(Odd(operation), torch.randn(2, 6))


def test_the_refusal_names_the_module_path():
    model = nn.Sequential(nn.Linear(3, 8), nn.Sequential(nn.ReLU(), nn.Softmax(1)), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"1\.1 \(Softmax\).*softmax"):
        trace(model, torch.randn(2, 3))


def test_outputs_that_are_not_logits_are_refused():
    with pytest.raises(ValueError, match="logits"):
        trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(1)), torch.randn(2, 6))
    with pytest.raises(ValueError, match="logits"):
        trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid()), torch.randn(2, 6))


def test_tracing_leaves_the_module_in_training_mode_as_it_was():
    model = networks("resnet", 1)[0].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, example("resnet"))
    assert model.training and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
