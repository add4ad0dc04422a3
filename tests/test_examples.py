"""Every file of examples/ runs on tiny data; there is no other one."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pipeline.cli.test_command_line import amalgam
from tests.pipeline.experiments.clip.test_clip_finetune import data as pictures  # noqa: F401
from tests.pipeline.steps.explained import write_folders
from tests.tasks.clip.worlds import CLASSES, images, spec

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str):
    """The module of one example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_three():
    names = {"fuse_two_timm_networks", "read_an_explanation", "sae_ft_of_an_image_folder"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == names


def test_two_timm_networks_are_fused_and_alpha_one_is_their_ensemble():
    found = example("fuse_two_timm_networks").main(["--epochs", "1", "--alphas", "0", "1"])
    assert found["fused, alpha 1"] == pytest.approx(found["ensemble"], abs=0.02)
    assert set(found) == {"member 0", "member 1", "ensemble", "fused, alpha 0", "fused, alpha 1"}


def test_a_folder_of_images_is_fine_tuned_on(pictures, monkeypatch):  # noqa: F811
    monkeypatch.chdir(pictures)
    weights = ("--checkpoint", str(pictures / "weights.safetensors"), "--architecture", "Tiny-16", "--image-size", "16")
    main = example("sae_ft_of_an_image_folder").main
    scale = ("--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25")
    table = main(["pictures", *weights, *scale, "--epochs", "1", "--strengths", "70"])
    assert set(table["method"]) == {"zero-shot", "ft", "sae-mask"}
    assert table["id/accuracy"].between(0, 1).all()


def test_the_tables_of_an_explanation_are_read(tmp_path):
    write_folders(tmp_path, spec(), CLASSES, ("a photo of the digit {}",), images(32))
    (tmp_path / "data").mkdir()
    found = images(64)
    pixels = ((found * 0.5 + 0.5).clamp(0, 1) * 255).byte().numpy()
    labels = np.arange(len(pixels)) % len(CLASSES)
    np.savez(
        tmp_path / "data/some.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels
    )
    flags = ("--sae", tmp_path / "sae", "--data", "npz:some.npz", "--data-root", tmp_path / "data")
    assert amalgam("explain", tmp_path / "before", tmp_path / "after", *flags, "--out", tmp_path / "out") == 0
    latents, predictions = example("read_an_explanation").main([str(tmp_path / "out"), "--most", "5"])
    flips = pd.read_parquet(tmp_path / "out/flips.parquet")
    assert predictions["predictions"].sum() == len(flips) and len(latents) <= 5
    effects = latents["effect"].abs().tolist()
    assert effects == sorted(effects, reverse=True)
