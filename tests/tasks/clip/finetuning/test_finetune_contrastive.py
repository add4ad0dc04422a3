"""Contrastive fine-tuning moves both towers by CLIP's own loss, and its classifier is made of words."""

import io

import pytest
import torch
from open_clip.loss import ClipLoss

from amalgam.tasks.clip.finetuning.contrastive import finetune_contrastive
from amalgam.tasks.clip.zero_shot import zero_shot_head
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.training.config import TrainConfig
from tests.tasks.clip.worlds import CLASSES, tiny_clip

TEMPLATES = ("a photo of the digit {}", "a bold {}", "the thin digit {}")
CONFIG = TrainConfig(epochs=2, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)


def run(digits, config=CONFIG, indices=range(64), templates=TEMPLATES, clip=None, **settings):
    clip = clip or tiny_clip()
    return finetune_contrastive(
        clip, digits, indices, range(64, 128), CLASSES, templates, config, 0, log=lambda m, e: None, **settings
    )


def state_of(clip):
    return {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_step_on_one_image_of_each_class_is_that_of_open_clips_loss(digits):
    firsts = [digits.labels.tolist().index(label) for label in range(4)]
    config = TrainConfig(epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)
    tuned = run(digits, config, firsts, TEMPLATES[:1]).clip
    clip = tiny_clip()
    shown = clip.model.train().encode_image(normalise(digits.batch(torch.tensor(firsts))), normalize=True)
    tokens = clip.tokenizer([TEMPLATES[0].replace("{}", name) for name in CLASSES])
    loss = ClipLoss()(shown, clip.model.encode_text(tokens, normalize=True), clip.model.logit_scale.exp())
    loss.backward()
    for (name, before), after in zip(clip.model.named_parameters(), tuned.model.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad, msg=name)


def test_both_towers_learn_and_the_head_is_what_the_text_tower_says(digits):
    clip = tiny_clip()
    before = state_of(clip)
    tuned = run(digits, CONFIG.model_copy(update={"epochs": 12}), clip=clip)
    assert same(before, state_of(clip))
    moved = {
        name.partition(".")[0] for name, tensor in state_of(tuned.clip).items() if not torch.equal(tensor, before[name])
    }
    assert {"visual", "transformer", "logit_scale"} <= moved
    head = zero_shot_head(tuned.clip, CLASSES, TEMPLATES)
    assert torch.equal(tuned.module.head.weight, head.weight)
    hits = predict(tuned.module, digits, range(128, len(digits))).argmax(1) == digits.labels[128:]
    assert hits.float().mean() > 0.8


def test_a_run_cut_short_and_resumed_ends_with_the_same_towers(digits):
    states = []
    whole = run(digits, save=states.append)
    stream = io.BytesIO()
    torch.save(states[0], stream)
    stream.seek(0)
    resumed = run(digits, resume=torch.load(stream, weights_only=True))
    assert same(state_of(whole.clip), state_of(resumed.clip))


def test_prompts_change_from_epoch_to_epoch(digits):
    texts = []
    clip = tiny_clip()
    clip.model.token_embedding.register_forward_pre_hook(lambda module, given: texts.append(given[0].clone()))
    run(digits, TrainConfig(epochs=2, batch_size=64), clip=clip)
    prompts = [text for text in texts if len(text) == 64]
    assert len(prompts) == 2 and all(len(text.unique(dim=0)) == 12 for text in prompts)


@pytest.mark.parametrize(
    "settings, message",
    [({"accumulate": 2}, "accumulate must be 1"), ({"label_smoothing": 0.1}, "label_smoothing must be 0")],
)
def test_settings_that_mean_nothing_here_are_refused(digits, settings, message):
    with pytest.raises(ValueError, match=message):
        run(digits, CONFIG.model_copy(update=settings))


def test_a_label_without_a_name_is_refused(digits):
    with pytest.raises(ValueError, match=r"class 3.* 2 class names"):
        finetune_contrastive(tiny_clip(), digits, [0], [1], CLASSES[:2], TEMPLATES, CONFIG, 0, log=print)
