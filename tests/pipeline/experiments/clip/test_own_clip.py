"""One's own CLIP: how its pictures are prepared is what somebody said, and never OpenAI's values in silence."""

import json

import pytest
import torch

from amalgam.pipeline.experiments.clip.backbone import Backbone, Wording
from amalgam.pipeline.experiments.clip.finetune import clip_finetune
from amalgam.pipeline.experiments.clip.styles import clip_styles
from amalgam.pipeline.experiments.clip.tested import FittedOptimisation
from amalgam.tasks.clip.testing.suite import Suite
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.zero_shot import GIVEN, prepared_otherwise
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from tests.tasks.clip.worlds import ARCHITECTURE

OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {**OWN, "size": 32}}),
        (
            "preprocessor_config.json",
            {"image_mean": OWN["mean"], "image_std": OWN["std"], "size": {"shortest_edge": 32}},
        ),
        ("clip.json", {"architecture": "x", "preprocessing": {**OWN, "size": [32, 32], "interpolation": "bilinear"}}),
    ],
)
def test_the_folder_of_a_checkpoint_says_how_pictures_are_prepared(weights, file, content):
    (weights.parent / file).write_text(json.dumps(content))
    found = Backbone(checkpoint=str(weights)).preprocessing
    assert (found.mean, found.std, found.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (32, 32))
    assert found.interpolation == ("bilinear" if file == "clip.json" else "bicubic")
    assert file in Backbone(checkpoint=str(weights)).derived["images prepared as"]


def test_flags_come_before_what_lies_beside_a_checkpoint(weights):
    (weights.parent / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": {**OWN, "size": 32}}))
    found = Backbone(checkpoint=str(weights), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=48).preprocessing
    assert (found.mean, found.std, found.size) == ((0.5,) * 3, (0.2,) * 3, (48, 48))


def test_a_checkpoint_that_nobody_says_anything_of_is_refused(weights):
    with pytest.raises(ValueError, match=r"--mean and --std.*0\.4815"):
        Backbone(checkpoint=str(weights)).preprocessing  # noqa: B018
    with pytest.raises(ValueError, match="belong together"):
        Backbone(checkpoint=str(weights), mean=(0.5,) * 3).preprocessing  # noqa: B018


def test_an_architecture_is_read_from_its_file(tmp_path, weights):
    (tmp_path / "mine.json").write_text(json.dumps({"model_cfg": ARCHITECTURE}))
    backbone = Backbone(architecture=str(tmp_path / "mine.json"), checkpoint=str(weights), mean=(0.5,), std=(0.5,))
    assert backbone.spec.architecture == ARCHITECTURE and backbone.preprocessing.size == (16, 16)
    build_clip(backbone.spec, filled=False)
    with pytest.raises(ValueError, match="--checkpoint"):
        Backbone(architecture=str(tmp_path / "mine.json")).spec  # noqa: B018
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json"):
        Backbone(architecture=str(tmp_path / "mine.json")).spec  # noqa: B018


def suite():
    source = Stored(data=DataSpec(name="digits"))
    sets = (TestSet(name="test", role="id", source=source),)
    return Suite(labelled=source, class_names=("n01", "n02"), templates="simple", test_sets=sets)


def test_classes_are_called_and_prompted_as_said():
    changed = Wording(templates=("a sketch of a {}", "{}"), class_names=("cat", "dog")).applied(suite())
    assert (changed.templates, changed.class_names) == (("a sketch of a {}", "{}"), ("cat", "dog"))
    assert Wording(templates=("openai",)).applied(suite()).templates == "openai"
    assert Wording().applied(suite()) == suite()
    for wording, message in (
        (Wording(class_names=("cat",)), "1 names.*2 classes"),
        (Wording(templates=("openay",)), "did you mean 'openai'"),
    ):
        with pytest.raises(ValueError, match=message):
            wording.applied(suite())


class Bright(torch.nn.Module):
    """Tells pictures apart that are brighter than what encoders of its kind see as grey."""

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * torch.tensor([-1.0, 1.0])


def test_pictures_prepared_wrongly_are_noticed():
    levels = torch.linspace(0, 255, 200).to(torch.uint8)
    pixels, grey = levels[:, None, None, None].expand(-1, 3, 8, 8).contiguous(), 0.3
    images = in_memory(pixels, (levels.double() / 255 > grey).long(), ("dark", "bright"), grey, 0.1)
    found = prepared_otherwise(Bright(), images, "cpu")
    assert found[GIVEN] == 1
    assert found["one half"] == pytest.approx(0.8, abs=0.01)  # a fifth lies between 0.3 and 0.5
    assert found["none"] == pytest.approx(0.7, abs=0.02)


def test_the_papers_recipe_is_one_flag(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
    report = clip_finetune(data_root=tmp_path, suite="imagefolder:pictures", recipe="paper")
    tuned = next(step for path in report.inputs["paths"] for step in path.inputs["after"] if "saes" in step.inputs)
    saes = tuned.inputs["saes"]
    assert tuned.config.finetuning.strength == 70 and not tuned.config.sae.normalised
    assert not saes.config.normalised and saes.config.training.weight_decay > 0
    assert ClipSpec(architecture="ViT-B-16").preprocessing is None


def test_strengths_that_are_sums_keep_the_papers_proportions():
    report = clip_styles(methods=("l2", "sae-mask"), strengths=(1.5625,), strength_form="sum", explain=())
    forms = {
        step.config.finetuning.regulariser.reduction for path in report.inputs["paths"] for step in path.inputs["after"]
    }
    assert forms == {"relative_sum"} and report.config.strength_form == "sum"


def test_holdout_and_warm_up_fit_the_number_of_pictures(tmp_path):
    for part, count in (("train", 200), ("test", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").touch()

    def tuned(**flags):
        report = clip_finetune(data_root=tmp_path, suite="imagefolder:pictures", methods=("ft",), **flags)
        [step] = [step for path in report.inputs["paths"] for step in path.inputs["after"]]
        return step.config, report.config.derived

    config, derived = tuned(epochs=10, batch_size=32)
    assert config.labelled.validation_share == 0.25 and derived["held out"] == "25 % of 400 images"
    assert config.finetuning.train.warmup_steps == 9 and derived["warm-up"] == "9 steps"  # of 93
    given, _ = tuned(validation_share=0.1, warmup_steps=3)
    assert (given.labelled.validation_share, given.finetuning.train.warmup_steps) == (0.1, 3)
    with pytest.raises(ValueError, match="longer than the training, 93 steps"):
        tuned(epochs=10, warmup_steps=500)
    train = given.finetuning.train
    assert train.epochs == 100 and train.learning_rate == 1.8e-5 and derived["learning rate"] == "5e-05"


@pytest.mark.parametrize(
    ("num_images", "epochs", "rate"), [(1_281_167, 10, 1e-5), (6400, 10, 1e-5), (640, 100, 1e-5), (20, 100, 5e-5)]
)
def test_fewer_pictures_are_seen_more_often_and_at_a_higher_rate(num_images, epochs, rate):
    found = FittedOptimisation().fitted(num_images)
    assert (found.epochs, found.learning_rate) == (epochs, rate)
    given = FittedOptimisation(epochs=3, learning_rate=1e-4).fitted(num_images)
    assert (given.epochs, given.learning_rate) == (3, 1e-4)
