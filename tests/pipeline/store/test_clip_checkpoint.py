"""Backbones, classifiers and autoencoders come back as the same functions; others are refused in one sentence."""

import pytest
import torch

from amalgam.pipeline.store.clip_checkpoints import (
    ClassifierInfo,
    key_of,
    load_classifier,
    load_clip,
    open_sae,
    read_about,
    read_sae,
    save_classifier,
    save_clip,
    save_sae,
)
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.sae.autoencoder import initial, unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from amalgam.tasks.sae.transcoder import Transcoder, TranscoderInfo
from tests.tasks.clip.worlds import CLASSES, images, spec, tiny_clip

TEMPLATES = ("a photo of the digit {}",)
RULES = [TopK(k=3), BatchTopK(k=3), JumpReLU(target_l0=3), Matryoshka(k=3), ReLU(l1=1), Gated(l1=1)]


@pytest.fixture
def classifier_folder(tmp_path):
    clip = tiny_clip()
    classifier = Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, TEMPLATES))
    about = ClassifierInfo(clip=spec(), class_names=CLASSES, templates=TEMPLATES, backbone=key_of(clip))
    save_classifier(classifier, about, tmp_path)
    return tmp_path, classifier, about


def test_a_backbone_loads_as_the_same_two_encoders(tmp_path):
    clip = tiny_clip(seed=3)
    save_clip(clip, spec(seed=5), tmp_path)
    again = load_clip(tmp_path)
    assert torch.equal(again.encode_image(images()), clip.encode_image(images()))
    assert torch.equal(again.encode_text(["a photo of two"]), clip.encode_text(["a photo of two"]))
    assert key_of(again) == key_of(clip) != key_of(tiny_clip(seed=4))


def test_a_classifier_loads_as_the_same_function(classifier_folder):
    folder, classifier, about = classifier_folder
    again = load_classifier(folder)
    assert not again.training and read_about(folder) == about
    assert torch.equal(again(images()), classifier.eval()(images()))


def test_what_is_no_classifier_is_refused(classifier_folder):
    folder, _, _ = classifier_folder
    with pytest.raises(ValueError, match=r"classifier\.json"):
        load_classifier(folder / "elsewhere")
    with pytest.raises(ValueError, match=r"clip\.json"):
        load_clip(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut short"):
        load_classifier(folder)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_an_autoencoder_loads_as_the_same_function(rule, tmp_path):
    info = SAEInfo(width=8, backbone="b", num_latents=20, sparsity=rule)
    sae = initial(info, SAETrainConfig(), torch.zeros(8), seed=0)
    save_sae(sae, tmp_path / "one")
    features = unit_norm(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    again = read_sae(tmp_path, "one")
    assert again.info == info and torch.equal(again(features), sae(features))
    with pytest.raises(ValueError, match="backbone='b', got backbone='c'"):
        read_sae(tmp_path, "one", FeatureInfo(width=8, backbone="c"))


def test_a_transcoder_is_no_autoencoder(tmp_path):
    info = TranscoderInfo(width=8, backbone="b", normalised=False, num_latents=20, sparsity=ReLU(l1=1), num_outputs=3)
    save_sae(Transcoder(info), tmp_path / "one")
    assert open_sae(tmp_path / "one").info == info
    with pytest.raises(ValueError, match="transcoder"):
        read_sae(tmp_path / "one")


def test_an_absent_autoencoder_names_those_there_are(tmp_path):
    info = SAEInfo(width=8, backbone="b", num_latents=20, sparsity=TopK(k=3))
    save_sae(initial(info, SAETrainConfig(), torch.zeros(8), seed=0), tmp_path / "topk-3")
    with pytest.raises(ValueError, match=r"two: .*topk-3"):
        read_sae(tmp_path, "two")
