"""The head that words make classifies as cosines do, and projections read off what a test set asks for."""

import open_clip
import pytest
import torch

from amalgam.tasks.clip.zero_shot import Classifier, Projection, templates_of, zero_shot_head
from amalgam.tasks.models.clip import build_clip
from tests.tasks.clip.worlds import ARCHITECTURE, CLASSES, images, spec, tiny_clip

TEMPLATES = ("a photo of the digit {}", "the bold {}", "a thin {}")
LOGITS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))


def test_the_head_before_training_chooses_the_nearest_class_by_cosine():
    clip = tiny_clip()
    classifier = Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, ["a photo of the digit {}"]))
    text = clip.encode_text([f"a photo of the digit {name}" for name in CLASSES])
    cosines = torch.cosine_similarity(clip.encode_image(images(64))[:, None], text[None], dim=-1)
    assert torch.equal(classifier(images(64)).argmax(1), cosines.argmax(1))
    torch.testing.assert_close(classifier(images(64)), clip.logit_scale * cosines)


@pytest.mark.parametrize("templates", ["openai", "simple"])
def test_the_head_is_open_clips_zero_shot_classifier_times_the_scale(templates):
    byte_pairs = ARCHITECTURE | {"text_cfg": {**ARCHITECTURE["text_cfg"], "context_length": 24}}
    clip = build_clip(spec(architecture=byte_pairs, words=()))
    sentences = [template.format for template in templates_of(templates)]
    theirs = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, CLASSES, sentences)
    head = zero_shot_head(clip, CLASSES, templates)
    torch.testing.assert_close(head.weight.detach(), clip.logit_scale * theirs.T)
    assert not head.bias.any() and head.weight.requires_grad and head.bias.requires_grad


def test_the_length_of_an_embedding_does_not_matter():
    head, features = zero_shot_head(tiny_clip(), CLASSES, TEMPLATES), torch.randn(5, 16)
    torch.testing.assert_close(head(features), head(37 * features))
    unit = features / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(features), unit @ head.weight.T)


def test_reordered_classes_reorder_the_logits():
    clip, order = tiny_clip(), [2, 0, 3, 1]
    features = torch.randn(5, 16)
    one = zero_shot_head(clip, CLASSES, TEMPLATES)(features)
    other = zero_shot_head(clip, [CLASSES[i] for i in order], TEMPLATES)(features)
    torch.testing.assert_close(other, one[:, order])


def test_a_name_with_braces_is_only_a_name():
    clip = build_clip(spec(architecture=ARCHITECTURE, words=("a", "{0}", "cat")))
    assert zero_shot_head(clip, ["{0}", "cat"], ["a {}"]).weight.shape == (2, 16)


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["zero", " "], TEMPLATES, "class 1 has an empty name"),
        ([], TEMPLATES, "at least one name"),
        ("zero", TEMPLATES, "list of at least one name"),
        (CLASSES, ["a photo of"], "'a photo of' has no slot"),
        (CLASSES, [], "no templates"),
        (CLASSES, "opennai", "did you mean 'openai'"),
    ],
)
def test_prompts_that_say_nothing_are_refused(names, templates, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_head(tiny_clip(), names, templates)


def test_openai_templates_are_the_default_set():
    theirs = tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    assert templates_of("openai") == theirs and len(theirs) == 80


def test_a_subset_keeps_its_columns_in_order_and_twice_is_once():
    project = Projection(((4,), (1,), (2,)), 6)
    assert torch.equal(project(LOGITS), LOGITS[:, [4, 1, 2]])
    assert torch.equal(project(project(LOGITS)), project(LOGITS))


def test_a_maximum_is_at_least_each_member_and_one_of_them():
    groups = ((0, 3, 5), (1,), (2, 4))
    projected = Projection(groups, 6)(LOGITS)
    for column, group in enumerate(groups):
        assert torch.equal(projected[:, column], LOGITS[:, list(group)].max(1).values)


@pytest.mark.parametrize(
    ("groups", "message"), [((), "at least one class"), (((),), "at least one column"), (((6,),), "read class 6")]
)
def test_projections_of_nothing_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        Projection(groups, 6)


def test_logits_of_another_head_are_refused():
    with pytest.raises(ValueError, match="6 classes, got 5"):
        Projection(((0,), (1,)), 6)(LOGITS[:, :5])
