"""`amalgam sae`: files of activations in, a folder in SAELens's layout, results and a card out."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.store.clip_checkpoints import open_sae, save_sae
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.sae.metrics import fvu
from amalgam.tasks.sae.rules import BatchTopK, ReLU, TopK
from amalgam.tasks.sae.transcoder import Transcoder, TranscoderInfo

SHORT = ("--epochs", "8", "--batch-size", "256", "--learning-rate", "0.003", "--expansion", "2")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Pixels and classes of the digits in files, the pixels whole and in shards."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, classes = load_digits(return_X_y=True)
    rows = (pixels / 16).astype(np.float32)
    np.save(folder / "x.npy", rows)
    np.save(folder / "y.npy", classes)
    (folder / "shards").mkdir()
    for number, part in enumerate(np.array_split(rows, 5)):
        np.save(folder / f"shards/{number}.npy", part)
    return folder


def command(*arguments):
    """The exit code."""
    try:
        main(["sae", *map(str, arguments)])
    except SystemExit as end:
        return end.code or 0
    return 0


def numbers(folder):
    return {result.metric: result.value for result in read_results(folder)}


def test_an_autoencoder_is_trained_measured_and_described(digits, tmp_path, capsys):
    out = tmp_path / "sae"
    assert command("train", digits / "x.npy", "--k", 8, "--out", out, "--source", "digits, pixels", *SHORT) == 0
    assert command("eval", out, digits / "x.npy", "--labels", digits / "y.npy", "--out", out) == 0
    found, sae, x = numbers(out), open_sae(out), torch.from_numpy(np.load(digits / "x.npy"))
    assert found["explained_variance"] == pytest.approx(1 - fvu(x, sae(x).detach())) and found["l0"] <= 8
    assert 0.5 < found["probe_1"] < found["probe_5"] < found["probe_features"] and 0 <= found["absorption"] <= 1
    assert command("card", out, "--license", "mit") == 0
    _, head, body = (out / "README.md").read_text().split("---\n", 2)
    metrics = yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == found and yaml.safe_load(head)["license"] == "mit"
    assert "digits, pixels" in body
    assert sae.info.sparsity == TopK(k=8) and sae.info.origin["training"]["epochs"] == 8
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "cfg.json",
        "results.parquet",
        "sae_weights.safetensors",
    ]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("standard", ["--l1", 0.5]), ("gated", ["--l1", 0.5]), ("jumprelu", ["--target-l0", 8]),
     ("BatchTopK", ["--k", 8, "--prefixes", "0.25,1"]), ("matryoshka", ["--k", 8])],
)  # fmt: skip
def test_every_kind_is_trained_from_shards_larger_than_the_buffer(kind, settings, digits, tmp_path):
    flags = ("--buffer-rows", 500, "--unit-norm", "--resample", 4, *settings)
    assert command("train", digits / "shards", "--kind", kind, "--out", tmp_path / "sae", *flags, *SHORT) == 0
    assert numbers(tmp_path / "sae")["explained_variance"] > 0.3
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert config["normalize_activations"] == "constant_norm_rescale"
    if kind == "BatchTopK":
        assert open_sae(tmp_path / "sae").info.sparsity == BatchTopK(k=8, prefixes=(0.25, 1.0))


def test_a_transcoder_is_measured_on_what_it_should_give(digits, tmp_path):
    info = TranscoderInfo(width=64, backbone="d", normalised=False, num_latents=20, sparsity=ReLU(l1=1), num_outputs=3)
    transcoder = Transcoder(info)
    draw = torch.Generator().manual_seed(0)
    for parameter in transcoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    save_sae(transcoder, tmp_path / "one")
    x = torch.from_numpy(np.load(digits / "x.npy"))
    np.save(tmp_path / "targets.npy", transcoder(x).detach().numpy())
    assert (
        command(
            "eval",
            tmp_path / "one",
            digits / "x.npy",
            "--targets",
            tmp_path / "targets.npy",
            "--out",
            tmp_path / "found",
        )
        == 0
    )
    assert numbers(tmp_path / "found")["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert command("eval", tmp_path / "one", digits / "x.npy") == 2


WRONG = {
    "no such kind": ["train", "x.npy", "--kind", "tpk", "--k", 4, "--out", "out"],
    "a setting of another kind": ["train", "x.npy", "--kind", "topk", "--k", 4, "--l1", 1, "--out", "out"],
    "a setting that lacks": ["train", "x.npy", "--kind", "gated", "--out", "out"],
    "more latents than there are": ["train", "x.npy", "--k", 4000, "--out", "out"],
    "no activations": ["train", "y.npy", "--k", 4, "--out", "out"],
    "no autoencoder": ["eval", "shards", "x.npy"],
    "labels of other rows": ["eval", "sae", "x.npy", "--labels", "x.npy"],
    "probes of no number": ["eval", "sae", "x.npy", "--k", "one"],
    "another width": ["eval", "sae", "narrow.npy"],
    "a card of nothing": ["card", "shards"],
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(digits)
    if not (digits / "sae").exists():
        command("train", "x.npy", "--k", 4, "--out", "sae", "--steps", 2)
        np.save("narrow.npy", np.zeros((5, 3), dtype=np.float32))
        capsys.readouterr()
    assert command(*WRONG[case]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "Traceback" not in error
    assert not (digits / "out").exists()


def test_weights_are_those_of_the_layout(digits, tmp_path):
    assert (
        command("train", digits / "x.npy", "--kind", "gated", "--l1", 0.3, "--out", tmp_path / "sae", "--steps", 3) == 0
    )
    state = load_file(tmp_path / "sae/sae_weights.safetensors")
    assert set(state) == {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"} and state["W_enc"].shape == (64, 256)
