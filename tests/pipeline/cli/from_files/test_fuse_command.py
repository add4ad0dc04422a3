"""Real checkpoints as they lie about: read, named, prepared as their owners did, or refused in one sentence."""

import argparse
import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from amalgam import load_model
from amalgam.pipeline.cli.from_files.preprocessing import configured
from amalgam.pipeline.store.checkpoints import save_model
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.models import build
from amalgam.tasks.models.foreign import fitted, read_checkpoint
from amalgam.tasks.models.spec import ModelSpec
from tests.pipeline.cli.test_command_line import HALVES, amalgam

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries' own code
DIGITS = ("--data", "digits", "--alpha", "0.5", "--calibration", "0")
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=12, outputs=10):
        layers = [nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, outputs)]
        super().__init__(nn.Flatten(), *layers)

def narrow(num_classes, width=6):
    return Net(width, num_classes)

class Coder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 2, 2))
"""


@pytest.fixture
def net(tmp_path, monkeypatch) -> type[nn.Module]:
    """A class of a user's own, in mine.py of the working folder."""
    (tmp_path / "mine.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(NET, space)
    net: type[nn.Module] = space["Net"]
    net.coder = space["Coder"]
    return net


def members(net, **options) -> list[nn.Module]:
    torch.manual_seed(0)
    return [net(**options).eval() for _ in range(2)]


def fuse(*arguments: str | Path) -> int:
    return amalgam("fuse", *arguments)


def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


WRAPPED = {
    "plain": lambda state: state,
    "state_dict, module.": lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
    "model, _orig_mod.": lambda state: {"model": {f"model._orig_mod.{k}": v for k, v in state.items()}},
    "ema": lambda state: {"ema": state, "args": argparse.Namespace(lr=0.1)},
    "model_state_dict, net.": lambda state: {"model_state_dict": {f"net.{k}": v for k, v in state.items()}},
    "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    "extra keys": lambda state: state | {"total_ops": torch.ones(1), "aux.weight": torch.ones(3, 3)},
    "no counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
def test_whatever_training_scripts_put_around_weights_is_recognised(how, suffix, net, tmp_path):
    (one, two), path = members(net), tmp_path / f"one{suffix}"
    torch.save(WRAPPED[how](one.state_dict()), path)
    found = fitted(two, read_checkpoint(path))
    two.load_state_dict(dict(found.state))
    tolerance = 1e-2 if how == "half" else 0
    torch.testing.assert_close(two(images()), one(images()), rtol=tolerance, atol=tolerance)
    words = [word for word in how.replace(",", "").split() if word.endswith(".") or word == "ema"]
    words += ["float16"] if how == "half" else []
    assert all(word.strip(".") in " ".join(found.notes) for word in words)


def test_tensors_of_a_gpu_are_read_where_there_is_none(net, tmp_path):
    state, path = members(net)[0].state_dict(), tmp_path / "gpu.pt"
    torch.save(state, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name, content)
    found = read_checkpoint(path)
    assert "cuda:0" in " ".join(found.notes)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {f"backbone.{k}": v for k, v in s.items()},
            "9 of its 9 names would fit without the prefix 'backbone.'",
        ),
        (lambda s: s | {"7.weight": torch.ones(3, 3)}, "'7.weight', which the model lacks"),
        (lambda s: {"weights": s}, "no state dict.*'weights'"),
        (lambda s: {k: v for k, v in s.items() if k != "1.bias"}, "lacks '1.bias'"),
    ],
)
def test_what_is_not_recognised_is_named(change, message, net, tmp_path):
    state = members(net)[0].state_dict()
    torch.save(change(state), tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        fitted(members(net)[0], read_checkpoint(tmp_path / "odd.pt"))


def test_a_class_of_ones_own_is_fused_and_says_what_was_recognised(net, tmp_path, capsys):
    one, two = members(net)
    torch.save({"model": {f"module.{k}": v for k, v in one.state_dict().items()}}, tmp_path / "a.pth")
    save_file(two.state_dict(), tmp_path / "b.safetensors")
    flags = ("--model", "mine.py:Net", "--weights", "0,1", *HALVES, *DIGITS)
    assert fuse("a.pth", "b.safetensors", *flags, "--out", "fused") == 0
    said = capsys.readouterr().out
    assert "'module.'" in said and "--mean 0.5 --std 0.5 (given)" in said and "load_model('fused')" in said
    torch.testing.assert_close(load_model("fused")(images()), two(images()))


def test_a_function_gets_what_it_names_and_options_come_before_it(net, tmp_path):
    for name in ("a", "b"):
        torch.save(net(width=7).state_dict(), tmp_path / f"{name}.pt")
    options = ("--model", "mine.py:narrow", "--model-options", '{"width": 7}')
    assert fuse("a.pt", "b.pt", *options, *HALVES, *DIGITS, "--out", "fused") == 0


def test_folders_of_other_widths_and_exported_programs_are_fused_again(net, tmp_path, capsys):
    torch.manual_seed(0)
    one, two = members(net)
    for name, member in (("a", one), ("b", two)):
        torch.save(member.state_dict(), tmp_path / f"{name}.pt")
    model = ("--model", "mine.py:Net")
    assert fuse("a.pt", "b.pt", *model, *HALVES, *DIGITS, "--out", "pair") == 0
    # The folder knows its architecture, its preparation and its classes; the other member is narrower.
    assert fuse("pair", "a.pt", *model, *DIGITS, "--weights", "1,0", "--out", "again") == 0
    assert "--interpolation bilinear --crop 1.0 (pair)" in capsys.readouterr().out
    torch.testing.assert_close(load_model("again")(images()), load_model("pair")(images()))
    batch = {0: torch.export.Dim.AUTO}
    for name, member in (("a", one), ("b", two)):
        torch.export.save(torch.export.export(member, (images(),), dynamic_shapes=(batch,)), f"{name}.pt2")
    assert fuse("a.pt2", "b.pt2", *HALVES, *DIGITS, "--weights", "0,1", "--out", "programs") == 0
    torch.testing.assert_close(load_model("programs")(images()), two(images()))
    assert fuse("a.pt", "b.pt", "--model", "a.pt2", *HALVES, *DIGITS, "--weights", "0,1", "--out", "filled") == 0
    torch.testing.assert_close(load_model("filled")(images()), two(images()))


def test_heads_of_other_classes_are_joined_by_name(net, tmp_path, capsys):
    low, high = members(net, outputs=6)
    names = [list("012345"), list("986754")]
    torch.save({"state_dict": low.state_dict(), "class_names": names[0]}, tmp_path / "low.pt")
    torch.save(high.state_dict(), tmp_path / "high.pt")
    flags = ("--model", "mine.py:Net", "--model-options", '{"outputs": 6}', "--data", "digits", *HALVES)
    assert fuse("low.pt", "high.pt", *flags, "--alpha", "1", "--out", "refused") == 2
    assert "high.pt has 6 outputs, there are 10 classes: give --class-names" in capsys.readouterr().err
    given = ("--class-names", ",".join(names[0]), "--class-names", ",".join(names[1]))
    assert fuse("low.pt", "high.pt", *flags, *given, "--alpha", "1", "--calibration", "0", "--out", "fused") == 0
    fused, found = load_model("fused"), {}
    for network, known in ((low, names[0]), (high, names[1])):
        for name, logit in zip(known, network(images()).unbind(1), strict=True):
            found[name] = [*found.get(name, []), logit]
    assert fused.class_names == tuple("0123459867")
    expected = torch.stack([torch.stack(found[name]).mean(0) for name in fused.class_names], 1)
    torch.testing.assert_close(fused(images()), expected)
    rows = {row["network"]: row for row in json.loads(Path("fused/fusion.json").read_text())["results"]}
    assert rows["fused"]["accuracy"] == rows["ensemble"]["accuracy"] and rows["low.pt"]["nll"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --mean, --std"),
        (("--mean", "0.5"), "give --std"),
        ((*HALVES, "--image-size", "16"), "give --interpolation"),
        ((*HALVES, "--crop", "0.9"), "crop"),
        ((*HALVES, "--crop", "2"), "at most 1, got 2"),
        ((*HALVES, "--expect-accuracy", "97.7,97"), "share in [0, 1]"),
        ((*HALVES, "--expect-accuracy", "0.977,0.9775"), "a.pt scores 0."),
        ((*HALVES, "--class-names", "a,b,c,d,e,f,g,h,i,j"), "such as '0'"),
        ((*HALVES, "--class-names", "a,b"), "10 outputs, there are 2 names"),
        ((*HALVES, "--calibration-role", "matching"), "calibration_role"),
    ],
)
def test_what_is_not_known_is_asked_for(flags, message, net, tmp_path, capsys):
    for name, member in zip("ab", members(net), strict=True):
        torch.save(member.state_dict(), tmp_path / f"{name}.pt")
    always = ("--model", "mine.py:Net", "--data", "digits", "--alpha", "0.5", "--out", "fused")
    assert fuse("a.pt", "b.pt", *always, *flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not Path("fused").exists()


def test_accuracies_that_are_as_expected_let_fusion_go_on(net, tmp_path, capsys):
    for name, member in zip("ab", members(net), strict=True):
        torch.save(member.state_dict(), tmp_path / f"{name}.pt")
    assert fuse("a.pt", "b.pt", "--model", "mine.py:Net", *HALVES, *DIGITS, "--out", "first") == 0
    rows = json.loads(Path("first/fusion.json").read_text())["results"]
    expected = ",".join(f"{row['accuracy']:.3f}" for row in rows[:2])
    assert "--expect-accuracy" in capsys.readouterr().out
    flags = (*HALVES, *DIGITS, "--expect-accuracy", expected)
    assert fuse("a.pt", "b.pt", "--model", "mine.py:Net", *flags, "--out", "second") == 0
    assert "--expect-accuracy" not in capsys.readouterr().out


def pictures(folder: Path) -> None:
    for part in ("train", "test"):
        for label in range(2):
            (folder / part / str(label)).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 36), (50 * label, 90 * number, 7)).save(
                    folder / part / str(label) / f"{number}.png"
                )


@pytest.mark.slow
def test_preparation_is_that_of_the_librarys_configuration(tmp_path, capsys):
    pictures(tmp_path / "data")
    for seed in range(2):
        network = build(ModelSpec(name="timm:test_resnet", num_classes=2, in_shape=(3, 64, 64)), seed)
        torch.save(network.state_dict(), tmp_path / f"{seed}.pt")
    paths = (tmp_path / "0.pt", tmp_path / "1.pt")
    flags = ("--data", f"imagefolder:{tmp_path / 'data'}", "--alpha", "0.5", "--calibration", "0")
    assert fuse(*paths, *flags, "--model", "timm:test_resnet", "--out", tmp_path / "fused") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--image-size 160 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --interpolation bilinear --crop 0.95" in printed
    assert "(timm:test_resnet)" in printed
    assert fuse(tmp_path / "fused", tmp_path / "fused", *flags, "--out", tmp_path / "again") == 0


@pytest.mark.parametrize(
    ("model", "size", "mean", "interpolation", "crop"),
    [
        ("torchvision:resnet18", 224, 0.485, "bilinear", 0.875),
        ("torchvision:vgg11", 224, 0.485, "bilinear", 0.875),
        ("timm:resnet18", 224, 0.485, "bicubic", 0.95),
        ("open_clip:ViT-B-16-SigLIP", 224, 0.5, "bicubic", None),  # squashed, not cropped: --crop is asked for
        ("timm:eva02_large_patch14_448", 448, 0.48145466, "bicubic", None),
        ("open_clip:RN50x4", 288, 0.48145466, "bicubic", 1.0),
    ],
)
def test_configurations_of_libraries_are_known(model, size, mean, interpolation, crop):
    found = configured(model, DataSpec(name="imagefolder:data"))
    assert (found.image_size, found.mean[0], found.interpolation, found.crop) == (size, mean, interpolation, crop)
    grey = configured(model, DataSpec(name="mnist"))
    assert grey.mean is grey.std is grey.crop is None


@pytest.mark.slow
def test_image_towers_are_read_from_whole_checkpoints_of_clip(tmp_path):
    tower = build(ModelSpec(name="open_clip:RN50", num_classes=1024, in_shape=(3, 224, 224)), seed=0)
    text = {"token_embedding.weight": torch.ones(3, 2), "logit_scale": torch.ones(())}
    alone = {name.removeprefix("visual."): tensor for name, tensor in tower.state_dict().items()}
    for state in (tower.state_dict() | text, alone):
        torch.save(state, tmp_path / "clip.pt")
        found = fitted(tower, read_checkpoint(tmp_path / "clip.pt"))
        assert found.notes and all(torch.equal(found.state[n], t) for n, t in tower.state_dict().items())


def test_networks_without_classes_are_compared_with_their_ensemble(net, tmp_path, capsys):
    for name, member in zip("ab", members(net.coder), strict=True):
        torch.save(member.state_dict(), tmp_path / f"{name}.pt")
    flags = ("--model", "mine.py:Coder", *HALVES, *DIGITS, "--weights", "1,0")
    assert fuse("a.pt", "b.pt", *flags, "--out", "fused") == 0
    assert "distance to the ensemble" in " ".join(capsys.readouterr().out.split())
    rows = json.loads(Path("fused/fusion.json").read_text())["results"]
    assert rows[-1]["distance"] < 1e-5 < rows[1]["distance"]


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        build(ModelSpec(name="timm:resnet18", num_classes=2, in_shape=(3, 32, 32)), seed=0)


def test_a_saved_network_keeps_the_names_of_its_classes(net, tmp_path):
    network = net()
    network.class_names = tuple("abcdefghij")
    save_model(network, None, tmp_path, example=images())
    assert load_model(tmp_path).class_names == network.class_names
