"""Pre-training is CLIP's: its loss, a run that can be cut anywhere, and something learnt from pictures and words."""

import io

import open_clip
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from amalgam.tasks.clip.contrastive_loss import contrastive_loss, retrieval
from amalgam.tasks.clip.toy.captioned import open_world
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.clip.toy.networks import small_clip
from amalgam.tasks.clip.toy.pretrain import pretrain
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.training.config import TrainConfig

TRAIN = TrainConfig(epochs=2, batch_size=16, optimizer="adamw", learning_rate=1e-3, schedule="cosine", clip_norm=1.0)
SHORT = PretrainConfig(train=TRAIN, images_per_epoch=64)
WORLD = WORLDS["digits"].model_copy(update={"clip": small_clip(size=20, patch=10, width=32, layers=1, embed_dim=32)})


def run(config=SHORT, seed=0, world_seed=0, world=WORLD, **more):
    log = more.pop("log", lambda metrics, epoch: None)
    return pretrain(build_clip(world.clip), open_world(world, None, world_seed), config, seed, log=log, **more)


def same(one, other) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.model.state_dict().items())


def features(seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(10, 6, generator=generator), dim=1)


def test_where_all_captions_differ_the_loss_is_that_of_open_clip():
    images, texts = features(0), features(1)
    expected = open_clip.ClipLoss()(images, texts, torch.tensor(14.0))
    torch.testing.assert_close(contrastive_loss(images, texts, 14.0, torch.randperm(10)), expected)


def test_captions_that_say_the_same_may_change_places():
    images, texts, said = features(0), features(1), torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 7, 1])
    swapped = torch.tensor([3, 9, 2, 0, 4, 5, 6, 7, 8, 1])
    loss = contrastive_loss(images, texts, 5.0, said)
    torch.testing.assert_close(contrastive_loss(images, texts[swapped], 5.0, said), loss)
    assert (contrastive_loss(images, texts[swapped], 5.0, torch.arange(10)) - loss).abs() > 1e-3


def test_pictures_beside_their_captions_find_them():
    assert retrieval(features(0), features(0), torch.arange(10)) == 1
    assert retrieval(features(0), features(0)[[1, 0, *range(2, 10)]], torch.arange(10)) == 0.8


def test_a_run_cut_short_and_resumed_ends_with_the_same_weights():
    states, logged, again = [], [], []
    whole = run(save=states.append, log=lambda m, e: logged.append((e, m)))
    stream = io.BytesIO()
    torch.save(states[0], stream)
    stream.seek(0)
    resumed = run(resume=torch.load(stream, weights_only=True), log=lambda m, e: again.append((e, m)))
    assert same(whole, resumed) and logged == again and len(logged) == 2


def test_equal_seeds_train_equal_networks_and_others_do_not():
    first = run()
    assert same(first, run())
    assert not same(first, run(seed=1)) and not same(first, run(world_seed=1))


def test_the_network_that_is_given_is_left_alone():
    clip = build_clip(WORLD.clip)
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    pretrain(clip, open_world(WORLD, None, 0), SHORT, 0, log=lambda metrics, epoch: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.model.state_dict().items())


@pytest.mark.slow
def test_pictures_come_to_find_their_captions():
    found = []
    longer = TRAIN.model_copy(update={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3})
    config = PretrainConfig(train=longer, images_per_epoch=3200)
    run(config, log=lambda metrics, epoch: found.append(metrics["pretrain/retrieval"]))
    assert found[-1] > 3 / 32  # three times chance


def test_half_precision_trains():
    run(PretrainConfig(train=TRAIN.model_copy(update={"precision": "bf16", "epochs": 1}), images_per_epoch=32))


def test_a_non_finite_loss_stops_the_run():
    wild = TRAIN.model_copy(update={"learning_rate": 1e30, "clip_norm": None})
    with pytest.raises(ValueError, match=r"nan .*epoch 1, step \d"):
        run(PretrainConfig(train=wild, images_per_epoch=128))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing has no effect"),
        ({"augment": "shift"}, "augment has no effect"),
        ({"precision": "fp16"}, "fp32 or bf16"),
    ],
)
def test_settings_without_effect_are_refused(setting, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(train=TrainConfig(**setting), images_per_epoch=64)
