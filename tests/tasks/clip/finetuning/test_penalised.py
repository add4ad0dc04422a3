"""Features may be held on unlabelled images, and as strongly as keeps a wanted share of their latents."""

import io

import pytest
import torch
from pydantic import ValidationError

from amalgam.tasks.clip.finetuning.anchors import CachedAnchors, Unlabelled
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import Drift
from amalgam.tasks.clip.finetuning.finetune import finetune
from amalgam.tasks.clip.finetuning.regularisers import (
    L2,
    L2SP,
    LDIFS,
    REGULARISERS,
    NoPenalty,
    SAEMask,
    SparseChange,
)
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.data.loading import Batch, normalise
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.data.views import View
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.sae.training.train import train as train_saes
from amalgam.tasks.training.config import TrainConfig
from tests.tasks.clip.worlds import CLASSES, SmallTopK, tiny_clip

TRAIN = TrainConfig(epochs=2, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
ONE_STEP = TRAIN.model_copy(update={"epochs": 1, "batch_size": 64})


@pytest.fixture(scope="module")
def negatives(digits):
    """The pictures of another domain, in another order."""
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:100]
    return in_memory(255 - digits.pixels[order], digits.labels[order], CLASSES)


def run(classifier, digits, train=TRAIN, log=lambda m, e: None, **settings):
    names = ("regulariser", "strength", "anchor_on", "overlap", "overlap_rate")
    config = FinetuneConfig(train=train, **{k: settings.pop(k) for k in names if k in settings})
    return finetune(classifier, digits, range(64), range(64, 128), config, 0, log=log, **settings)


@torch.no_grad()
def features_of(classifier, images):
    return classifier.encoder.train()(normalise(images.pixels))


def state_of(trained):
    return {name: tensor.clone() for name, tensor in trained.module.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def moved(classifier, trained, images):
    return Drift.between(features_of(trained.module, images), features_of(classifier, images)).change.norm(dim=1).mean()


def ids_beside(images, ids, epoch, seed=0):
    batch = Batch(torch.tensor(ids), torch.zeros(len(ids), 3, 16, 16), torch.zeros(len(ids)))
    return Unlabelled(images).beside(batch, 150, seed, epoch, View()).ids.tolist()


def test_unlabelled_images_come_in_turn_whatever_the_batches(negatives):
    whole = ids_beside(negatives, list(range(150)), 1)
    assert ids_beside(negatives, [140, 3, 7], 1) == [whole[140], whole[3], whole[7]]
    assert sorted(whole[:100]) == list(range(100)) and len(set(whole[100:])) == 50
    assert whole != ids_beside(negatives, list(range(150)), 2)
    assert whole != ids_beside(negatives, list(range(150)), 1, seed=1)


def test_features_stay_on_the_images_they_are_penalised_on(classifier, digits, negatives):
    slow = TRAIN.model_copy(update={"epochs": 6, "learning_rate": 3e-4})
    held = {
        on: run(classifier, digits, slow, regulariser=L2(), strength=300.0, anchor_on=on, **given)
        for on, given in (("labelled", {}), ("unlabelled", {"unlabelled": Unlabelled(negatives)}))
    }
    assert moved(classifier, held["unlabelled"], negatives) < 0.75 * moved(classifier, held["labelled"], negatives)
    assert moved(classifier, held["labelled"], digits) < 0.75 * moved(classifier, held["unlabelled"], digits)


@pytest.mark.parametrize("regulariser", [L2(), SAEMask(), LDIFS()])
@pytest.mark.parametrize("anchor_on", ["unlabelled", "both"])
def test_the_first_step_is_that_of_plain_training(classifier, digits, negatives, anchor_on, regulariser):
    given = {"unlabelled": Unlabelled(negatives), "sae": SmallTopK()}
    settings = {"regulariser": regulariser, "strength": 1000.0, "anchor_on": anchor_on}
    assert same(
        state_of(run(classifier, digits, ONE_STEP, **settings, **given)), state_of(run(classifier, digits, ONE_STEP))
    )


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_cached_anchors_of_unlabelled_images_train_as_live_ones_to_the_bit(classifier, digits, negatives, augment):
    """Staged in batches as large as those of training: what an image gives may depend on their size."""
    config, count = TRAIN.model_copy(update={"augment": augment}), 96
    negatives = in_memory(negatives.pixels[:count], negatives.labels[:count], CLASSES)
    views = [View(augment, number)(torch.arange(count), negatives.pixels) for number in range(config.num_views)]
    encoder = classifier.encoder.train()
    with torch.no_grad():
        staged = [torch.cat([encoder(part) for part in normalise(shown).split(16)]) for shown in views]
    settings = {"regulariser": L2(), "strength": 10.0, "anchor_on": "unlabelled"}
    runs = [
        run(classifier, digits, config, **settings, unlabelled=Unlabelled(negatives, anchors))
        for anchors in (None, CachedAnchors(torch.stack(staged)))
    ]
    assert same(state_of(runs[0]), state_of(runs[1]))


@pytest.mark.parametrize("augment", ["crop_flip", "shift"])
def test_a_run_cut_short_and_resumed_ends_with_the_same_weights_and_strength(classifier, digits, negatives, augment):
    config = TRAIN.model_copy(update={"augment": augment, "epochs": 3})
    settings = {"regulariser": SAEMask(), "anchor_on": "both", "overlap": 0.8, "sae": SmallTopK()}
    settings |= {"unlabelled": Unlabelled(negatives)}
    states, logged = [], []
    whole = run(classifier, digits, config, log=lambda m, e: logged.append(m), save=states.append, **settings)
    for state in states:
        stream = io.BytesIO()
        torch.save(state, stream)
        stream.seek(0)
        again = []
        log = lambda metrics, epoch, again=again: again.append(metrics)  # noqa: E731
        load = torch.load(stream, weights_only=True)
        resumed = run(classifier, digits, config, log=log, resume=load, **settings)
        assert same(state_of(whole), state_of(resumed)) and logged == again


def test_a_search_that_stands_still_is_a_fixed_strength_to_the_bit(classifier, digits):
    settings = {"regulariser": SAEMask(), "strength": 1.0, "sae": SmallTopK()}
    still = run(classifier, digits, overlap=0.5, overlap_rate=1e-12, **settings)
    assert same(state_of(still), state_of(run(classifier, digits, **settings)))


@pytest.fixture(scope="module")
def trained(digits):
    """A classifier that knows the digits, and an autoencoder that explains its features."""
    clip = tiny_clip()
    fresh = Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, ["a photo of the digit {}"]))
    classifier = run(fresh, digits, TRAIN.model_copy(update={"epochs": 10})).module
    about = FeatureInfo(width=16, normalised=True, backbone="tiny")
    config = SAETrainConfig(epochs=60, batch_size=64, learning_rate=2e-3)
    features = unit_norm(features_of(classifier, digits))
    return classifier, train_saes(features, about, [SAESpec(sparsity=TopK(k=4))], config, log=lambda m, e: None)[0]


@pytest.mark.slow
@pytest.mark.parametrize("regulariser", [L2(), SAEMask(), SparseChange(latents=1.0)])
@pytest.mark.parametrize("start, target", [(1.0, 0.6), (30.0, 0.8)])
def test_the_strength_that_keeps_a_wanted_overlap_is_found(trained, digits, regulariser, start, target):
    classifier, sae = trained
    history = []
    settings = {"regulariser": regulariser, "strength": start, "overlap": target, "overlap_rate": 0.3}
    config = TRAIN.model_copy(update={"epochs": 40, "learning_rate": 3e-4})
    run(classifier, digits, config, log=lambda m, e: history.append(m), sae=sae, **settings)
    reached = [metrics["train/overlap"] for metrics in history[-10:]]
    # One of four active latents of one image, exchanged for another, moves the index by 0.4; the mean of 64 by 0.006.
    assert sum(reached) / len(reached) == pytest.approx(target, abs=0.05)


def test_a_strength_that_adapts_is_logged_and_a_fixed_one_is_not(classifier, digits):
    for overlap in (None, 0.5):
        history = []
        settings = {"regulariser": SAEMask(), "strength": 7.0, "overlap": overlap, "sae": SmallTopK()}
        run(classifier, digits, log=lambda m, e, h=history: h.append(m), **settings)
        assert ("train/strength" in history[0], "train/overlap" in history[0]) == ((overlap is not None),) * 2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"anchor_on": "both"}, "'both': give unlabelled"),
        ({"unlabelled": True}, "'labelled': leave out unlabelled"),
        ({"anchor_on": "unlabelled", "unlabelled": True, "anchors": print}, "leave anchors out"),
        ({"overlap": 0.5}, "overlap=0.5 .* sparse autoencoder"),
    ],
)
def test_what_is_missing_or_without_effect_is_said(classifier, digits, negatives, settings, message):
    if "unlabelled" in settings:
        settings = settings | {"unlabelled": Unlabelled(negatives)}
    with pytest.raises(ValueError, match=message):
        run(classifier, digits, regulariser=L2(), **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"anchor_on": "both", "regulariser": NoPenalty()}, "anchor_on"),
        ({"overlap": 0.5, "strength": 0.0, "regulariser": L2()}, "overlap"),
        ({"overlap": 0.5, "trained": "head", "regulariser": L2SP()}, "overlap"),
        ({"anchor_on": "both", "regulariser": L2SP()}, "L2SP .* anchor_on"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig(**settings)


@pytest.mark.parametrize("kind", REGULARISERS, ids=lambda kind: kind.__name__)
def test_masked_entries_stay_whatever_else_is_penalised(classifier, digits, kind):
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(p.shape, generator=generator) < 0.1 for name, p in classifier.named_parameters()}
    regulariser = kind()
    given = {"sae": SmallTopK()} if "sae" in regulariser.needs else {}
    given |= {"basis": torch.eye(16)[:, :4]} if "basis" in regulariser.needs else {}
    trained = run(classifier, digits, ONE_STEP, masks=masks, regulariser=regulariser, strength=1.0, **given)
    before, after = dict(classifier.named_parameters()), dict(trained.module.named_parameters())
    assert all(torch.equal(before[name][~mask], after[name][~mask]) for name, mask in masks.items())
    assert any((before[name][mask] != after[name][mask]).any() for name, mask in masks.items())
