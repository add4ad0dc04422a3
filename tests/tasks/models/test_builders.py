"""Networks by name: the sizes of the papers, weights that follow the seed, errors that name the near ones."""

import pytest
import torch

from amalgam.tasks.models import ModelSpec, build

CIFAR = {"num_classes": 10, "in_shape": (3, 32, 32)}
SPECS = [
    ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)),
    ModelSpec(name="vgg11", **CIFAR, options={"width": 0.125, "batch_norm": True}),
    ModelSpec(name="resnet18", **CIFAR, options={"width": 0.125}),
    ModelSpec(name="timm:resnet10t", num_classes=4, in_shape=(1, 64, 64)),
    ModelSpec(name="torchvision:squeezenet1_1", num_classes=4, in_shape=(3, 64, 64), options={"dropout": 0.1}),
]


def weights(module):
    return torch.cat([tensor.double().flatten() for tensor in module.state_dict().values()])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_network_takes_its_images_and_gives_its_classes(spec):
    logits = build(spec, seed=0).eval()(torch.zeros(2, *spec.in_shape))
    assert logits.shape == (2, spec.num_classes)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_weights_follow_the_seed_and_leave_the_global_random_state(spec):
    before = torch.random.get_rng_state()
    first = weights(build(spec, seed=1))
    torch.rand(3)
    assert torch.equal(first, weights(build(spec, seed=1))) and not torch.equal(first, weights(build(spec, seed=2)))
    torch.random.set_rng_state(before)
    build(spec, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_spec_is_the_same_after_json(spec):
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "name, in_shape, options, count",
    [
        ("mlp", (1, 28, 28), {"bias": False}, 99_400),
        ("mlp", (1, 28, 28), {}, 99_400 + 310),
        ("vgg11", (3, 32, 32), {"bias": False}, 9_222_848),
        ("resnet18", (3, 32, 32), {"bias": False}, 11_173_952),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, in_shape, options, count):
    module = build(ModelSpec(name=name, num_classes=10, in_shape=in_shape, options=options), seed=0)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_a_spec_spells_out_its_defaults():
    assert ModelSpec(name="resnet18", **CIFAR) == ModelSpec(name="resnet18", **CIFAR, options={"width": 1.0})


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet81", {}, "there is no model 'resnet81': did you mean 'resnet18'"),
        ("mlp", {"width": 4}, "there is no option of mlp 'width': did you mean 'widths'"),
        ("mlp", {"widths": (10, 0)}, "option widths.1 of mlp: Input should be greater than 0, got 0"),
        ("vgg11", {"activation": "sine"}, "option activation of vgg11: Input should be 'relu'.* got 'sine'"),
    ],
)
def test_unknown_names_and_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec(name=name, **CIFAR, options=options)


@pytest.mark.parametrize(
    "name, in_shape, options, message",
    [
        ("timm:resnet81", (3, 64, 64), {}, "there is no timm model 'resnet81': did you mean .*resnet"),
        ("torchvision:resnet81", (3, 64, 64), {}, "there is no torchvision classifier .*did you mean .*resnet"),
        ("torchvision:resnet18", (1, 64, 64), {}, "takes images of 3 channels, got 1"),
        ("torchvision:resnet18", (3, 64, 64), {"colour": 1}, "'resnet18' refused its options: .*colour"),
        ("vgg11", (1, 28, 28), {}, "needs 32x32 pixels, got .1, 28, 28.: set image_size"),
    ],
)
def test_what_a_library_does_not_have_is_refused(name, in_shape, options, message):
    with pytest.raises(ValueError, match=message):
        build(ModelSpec(name=name, num_classes=10, in_shape=in_shape, options=options), seed=0)
