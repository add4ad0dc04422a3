"""Checkpoints come back as the same function; anything else in a file is refused in one sentence."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from amalgam.pipeline.store.checkpoints import fill, load_model, read_pictures, read_state, save_model
from amalgam.tasks.fusion import PartialOT, fuse
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec

SPECS = [
    ModelSpec(name="mlp", num_classes=3, in_shape=(1, 4, 4), options={"widths": (8, 6)}),
    ModelSpec(name="resnet18", num_classes=3, in_shape=(3, 8, 8), options={"width": 0.0625}),
]


def images(spec: ModelSpec) -> torch.Tensor:
    return torch.randn(5, *spec.in_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_saved_network_loads_as_the_same_function(spec, tmp_path):
    module = build(spec, seed=0).eval()
    save_model(module, spec, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    torch.testing.assert_close(load_model(tmp_path)(images(spec)), module(images(spec)), rtol=0, atol=0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_saved_fused_network_loads_at_its_own_widths(spec, tmp_path):
    members = [build(spec, seed=seed).eval() for seed in (0, 1)]
    fused = fuse(members, PartialOT(alpha=0.5), images(spec))
    save_model(fused, spec, tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(images(spec)), fused(images(spec)), rtol=0, atol=0)


def test_a_network_that_could_not_be_built_again_is_not_written(tmp_path):
    spec = ModelSpec(name="timm:densenet121", num_classes=3, in_shape=(3, 32, 32))
    with pytest.raises(ValueError, match="linear"):
        save_model(torch.fx.symbolic_trace(nn.Linear(3, 3)), spec, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_comes_back_from_either_kind_of_file(suffix, tmp_path):
    state = nn.Linear(3, 2).state_dict()
    path = tmp_path / f"model{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"epoch": 3, "state_dict": state}, path)
    torch.testing.assert_close(read_state(path), dict(state))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused(suffix, share, tmp_path):
    path = tmp_path / f"model{suffix}"
    state = {"weight": torch.randn(1000)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="cut short"):
        read_state(path)


def test_a_pickled_module_is_refused_without_running_it(tmp_path):
    torch.save(nn.Linear(3, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="pickled Python objects"):
        read_state(tmp_path / "model.pt")


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    torch.save([1, 2, 3], tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no state dict"):
        read_state(tmp_path / "model.pt")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*none\.pt"):
        read_state(tmp_path / "none.pt")


def test_nan_is_refused_by_the_name_of_its_tensor(tmp_path):
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="'bad'"):
        read_state(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"weight": state["weight"]}, r"a\.pt lacks 'bias' of the model"),
        (lambda state: state | {"scale": torch.ones(1)}, r"a\.pt has 'scale', which the model lacks"),
        (lambda state: state | {"bias": torch.ones(5)}, r"'bias' of shape \(5,\), but the model's is \(2,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    state = change(dict(nn.Linear(3, 2).state_dict()))
    with pytest.raises(ValueError, match=message):
        fill(nn.Linear(3, 2), state, "a.pt")


@pytest.mark.parametrize("content", ["{", "[]", "3"])
@pytest.mark.parametrize("name", ["config.json", "structure.json", "pictures.json"])
def test_a_damaged_description_is_one_line_that_names_the_file(name, content, tmp_path):
    save_model(build(SPECS[0], seed=0), SPECS[0], tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name) as refused:
        read_pictures(tmp_path) if name == "pictures.json" else load_model(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_state_from_before_batch_norm_counted_batches_is_read():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    old = {name: tensor for name, tensor in net.state_dict().items() if "num_batches_tracked" not in name}
    filled = fill(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), old, "old.pt")
    assert all(torch.equal(filled.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
