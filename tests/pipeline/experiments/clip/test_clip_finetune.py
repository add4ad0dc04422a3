"""A CLIP with weights from a file is fine-tuned on folders of pictures, from the command line to the report."""

import json
import re
import shutil

import open_clip
import pytest
from safetensors.torch import save_file

from amalgam.pipeline.store.artifact import read_records
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from tests.pipeline.cli.test_command_line import amalgam
from tests.tasks.clip.worlds import ARCHITECTURE, write_pictures

TINY = {**ARCHITECTURE, "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1}}
FLAGS = (
    "--suite",
    "imagefolder:pictures",
    "--architecture",
    "Tiny-16",
    "--image-size",
    "16",
    "--mean",
    "0.48,0.46,0.41",
    "--std",
    "0.27,0.26,0.28",
    "--methods",
    "ft,sae-mask",
    "--strengths",
    "70",
    "--alphas",
    "0.5,1",
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--warmup-steps",
    "1",
    "--k",
    "2",
    "--sae-epochs",
    "2",
    "--validation-share",
    "0.25",
    "--precision",
    "fp32",
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Red and green pictures, and a small architecture with its weights in a file."""
    write_pictures(tmp_path / "pictures", ("red_thing", "green_thing"), count=16)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    (tmp_path / "Tiny-16.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "Tiny-16.json")
    save_file(build_clip(ClipSpec(architecture="Tiny-16")).model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


@pytest.mark.slow
def test_user_supplied_images_are_fine_tuned_on_and_reported(data, capsys):
    places = ("--data-root", data, "--checkpoint", data / "weights.safetensors", "--root", data / "runs")
    flags = (*FLAGS, "--corruptions", "fog,snow", "--severities", "3")
    assert amalgam("run", "clip_finetune", *flags, *places, "--local") == 0
    said = capsys.readouterr().out
    assert "sae-mask" in said and "robustness.html" in said and "unseen %" in said
    records = {record.name for record in read_records(data / "runs")}
    assert records == {"opened", "zero_shot", "features", "saes", "tuned", "path", "robustness"}
    assert amalgam("plan", "clip_finetune", *flags, *places) == 0
    assert "nothing to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--checkpoint", "nowhere.pt"), "there is no checkpoint nowhere.pt"),
        (("--checkpoint", "w", "--architecture", "Tiny-17"), "there is no CLIP architecture 'Tiny-17'"),
        (("--suite", "imagefolder:elsewhere"), "elsewhere/train is missing"),
        (("--suite", "domains:pictures@third"), "there is no domain 'third'"),
        (("--methods", "sae_mask"), "did you mean 'sae-mask'"),
        (("--compare", "sae-mask,lp"), "'lp'"),
        (("--compare", "sae-mask"), "two different methods"),
        (("--corruptions", "frogg"), "did you mean 'fog' or 'frost'"),
        (("--tests", "imagenet-a"), "has none to select"),
    ],
)
def test_a_user_error_is_one_sentence_before_anything_runs(flags, message, data, capsys):
    assert amalgam("plan", "clip_finetune", *FLAGS, *flags, "--data-root", data, "--root", data / "runs") == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (data / "runs").exists()


def planned(data, capsys, *flags) -> dict[str, set[str]]:
    """The steps of a plan by kind."""
    places = ("--data-root", data, "--checkpoint", data / "weights.safetensors", "--root", data / "runs")
    assert amalgam("plan", "clip_finetune", *FLAGS, *flags, *places) == 0
    keys = re.findall(r"^(\w+)-(\w{16})", capsys.readouterr().out, re.MULTILINE)
    return {kind: {key for each, key in keys if each == kind} for kind, _ in keys}


def test_one_more_picture_makes_all_that_reads_the_folder_anew(data, capsys):
    before = planned(data, capsys)
    shutil.copy(data / "pictures/train/red_thing/0.png", data / "pictures/train/red_thing/more.png")
    after = planned(data, capsys)
    assert {kind for kind in before if before[kind] & after[kind]} == {"opened", "zero_shot"}


def test_nothing_is_encoded_or_trained_beside_what_was_asked_for(data, capsys):
    plain = {"opened", "zero_shot", "tuned", "path", "robustness"}
    assert set(planned(data, capsys, "--methods", "ft")) == plain
    assert set(planned(data, capsys, "--methods", "ft,l2", "--anchors", "live")) == plain
    assert set(planned(data, capsys, "--methods", "l2")) == plain | {"features"}
    assert set(planned(data, capsys, "--methods", "sae-mask", "--anchors", "live")) == plain | {"features", "saes"}


def test_other_weights_at_the_same_place_are_other_steps(data, capsys):
    places = ("--data-root", data, "--checkpoint", data / "weights.safetensors", "--root", data / "runs")
    plans = []
    for seed in (0, 1):
        model = build_clip(ClipSpec(architecture="Tiny-16", seed=seed)).model
        save_file(model.state_dict(), data / "weights.safetensors")
        assert amalgam("plan", "clip_finetune", *FLAGS, *places) == 0
        plans.append({word for word in capsys.readouterr().out.split() if word.startswith("opened-")})
    assert plans[0].isdisjoint(plans[1])
