"""Whatever `fuse` makes can be kept: written without pickled code, read back, run, fused again, and exported."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from amalgam.pipeline.store.checkpoints import load_model, save_model
from amalgam.pipeline.store.programs import read_program, write_program
from amalgam.tasks.fusion import PartialOT, merge
from amalgam.tasks.fusion.rebuild.block_layers import BlockLayer
from amalgam.tasks.fusion.structured import structured
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.tracing.trace import trace
from tests.tasks.fusion.architectures import example_of, member_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries' own code
RECORDED = ("transformer_encoder", "bert", "unet", "group_norm_resnet", "gru", "weight_norm_mlp", "cosine_head",
            "open_clip_vit", "tied_words", "padded_shortcut", "pixel_shuffle", "scalars")  # fmt: skip


def fused(members: list[nn.Module], alpha: float, x: torch.Tensor) -> nn.Module:
    axes = trace(members[0], x)
    matching = PartialOT(alpha=alpha, max_sweeps=0)(axes, [m.state_dict() for m in members])
    return merge(members, axes, matching.couplings(), (0.3, 0.7))


@pytest.mark.parametrize("name", RECORDED)
@torch.no_grad()
def test_networks_of_recorded_operations_are_read_back_as_they_were(name, tmp_path):
    x = example_of(name)
    network = fused([member_of(name, 0), member_of(name, 1)], 0.5, x)
    save_model(network, None, tmp_path, example=x)
    again, more = load_model(tmp_path), example_of(name, batch=5)
    assert isinstance(again, GraphModule)
    torch.testing.assert_close(again(x), network(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again(more), network(more), rtol=1e-12, atol=1e-12)
    assert {p.requires_grad for p in again.parameters()} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "gru", "weight_norm_mlp", "transformer_encoder"])
@torch.no_grad()
def test_what_was_read_back_can_be_fused_again(name, tmp_path):
    x, members = example_of(name), [member_of(name, seed) for seed in range(2)]
    save_model(fused(members, 0.5, x), None, tmp_path, example=x)
    pair = load_model(tmp_path)
    torch.testing.assert_close(fused([pair, pair], 0.5, x)(x), pair(x), rtol=1e-9, atol=1e-9)


MLP = ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8), options={"widths": (12, 8)})
RESNET = ModelSpec(name="resnet18", num_classes=4, in_shape=(3, 16, 16), options={"width": 0.125})


@pytest.mark.slow
@pytest.mark.parametrize("spec", [MLP, RESNET], ids=["linear", "convolutions"])
@torch.no_grad()
def test_layers_of_blocks_are_stored_as_blocks(spec, tmp_path):
    members = [build(spec, seed).eval() for seed in range(2)]
    x = torch.randn(3, *spec.in_shape)
    axes = trace(members[0], x)
    couplings = PartialOT(alpha=1.0)(axes, [m.state_dict() for m in members]).couplings()
    dense = merge(members, axes, couplings, (0.3, 0.7))
    blocks = structured(dense, axes, couplings)
    assert any(isinstance(part, BlockLayer) for part in blocks.modules())
    for network, folder in ((dense, tmp_path / "dense"), (blocks, tmp_path / "blocks")):
        folder.mkdir()
        save_model(network, spec, folder)
    sizes = {f.name: (f / "model.safetensors").stat().st_size for f in tmp_path.iterdir()}
    assert sizes["blocks"] < sizes["dense"]
    assert torch.equal(load_model(tmp_path / "blocks")(x), blocks(x))
    again = load_model(tmp_path / "blocks", dense=True)
    assert {n: t.tolist() for n, t in again.state_dict().items()} == {
        n: t.tolist() for n, t in dense.state_dict().items()
    }


def called(record: dict) -> dict:
    return next(node for node in record["nodes"] if node["op"] == "call_function")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: called(r).update(target="torch.hub.load"), "torch.hub.load"),
        (lambda r: called(r).update(target="operator.attrgetter"), "operator.attrgetter"),
        (lambda r: r["nodes"].pop(0), "structure.json"),
        (lambda r: r["layers"].update(evil={"kind": "Module", "settings": {}, "shapes": {}}), "'Module'"),
        (lambda r: r["layers"].popitem(), "structure.json"),
    ],
)
def test_a_record_that_names_anything_else_is_refused(change, message, tmp_path):
    x = example_of("unet")
    save_model(fused([member_of("unet", 0), member_of("unet", 1)], 0.5, x), None, tmp_path, example=x)
    record = json.loads((tmp_path / "structure.json").read_text())
    change(record)
    (tmp_path / "structure.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_a_network_of_code_without_a_spec_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="Linear"):
        save_model(nn.Linear(2, 2), None, tmp_path)
    assert not list(tmp_path.iterdir())


TINY_VIT = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3}
VIT = ModelSpec(name="timm:vit_tiny_patch16_224", num_classes=3, in_shape=(3, 32, 32), options=TINY_VIT)


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("spec", [MLP, VIT], ids=["mlp", "vit"])
@torch.no_grad()
def test_exported_programs_compute_what_the_network_computes(spec, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
        runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    x = torch.randn(5, *spec.in_shape, generator=torch.Generator().manual_seed(0))
    network = fused([build(spec, seed).eval() for seed in range(2)], 0.5, x)
    (tmp_path / "fused").mkdir()
    save_model(network, spec, tmp_path / "fused")
    write_program(tmp_path / "fused", tmp_path / "program.bin", form)
    if form == "torch":
        (tmp_path / "program.bin").rename(tmp_path / "program.pt2")
        found = read_program(tmp_path / "program.pt2")(x)
    else:
        session = runtime.InferenceSession(str(tmp_path / "program.bin"))
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-4)


def test_programs_that_hold_objects_are_refused(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(2, 2),)), tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2") as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"torch.ops.aten.linear.default", b"torch.hub.load"))
    assert read_program(tmp_path / "good.pt2")(torch.ones(3, 2)[:2]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"torch\.hub\.load"):
        read_program(tmp_path / "bad.pt2")
