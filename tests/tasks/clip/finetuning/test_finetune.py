"""Fine-tuning is plain training and a penalty: none at strength 0, none in the first step, resumable to the bit."""

import io

import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import f1_score

from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import Drift, principal_directions
from amalgam.tasks.clip.finetuning.finetune import CachedAnchors, finetune
from amalgam.tasks.clip.finetuning.regularisers import (
    L2,
    L2SP,
    LDIFS,
    PCA,
    REGULARISERS,
    NoPenalty,
    SAEMask,
    Selective,
    SparseKL,
    SparseWasserstein,
)
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.loading import normalise, view_batches
from amalgam.tasks.data.views import View
from amalgam.tasks.sae.autoencoder import initial
from amalgam.tasks.sae.config import SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.epochs import Diverged
from amalgam.tasks.training.loop import train
from tests.tasks.clip.worlds import SmallTopK, images

TRAIN = TrainConfig(epochs=2, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
ONE_STEP = TRAIN.model_copy(update={"epochs": 1, "batch_size": 64})


def run(classifier, digits, train_config=TRAIN, seed=0, **settings):
    names = ("regulariser", "strength", "trained")
    config = FinetuneConfig(train=train_config, **{k: settings.pop(k) for k in names if k in settings})
    return finetune(classifier, digits, range(64), range(64, 128), config, seed, log=silent, **settings)


def silent(metrics, epoch):
    pass


def extras(classifier, digits, regulariser) -> dict:
    basis = principal_directions(features_of(classifier, digits), 5)
    return {"sae": {"sae": SmallTopK()}, "basis": {"basis": basis}}.get(next(iter(regulariser.needs), ""), {})


@torch.no_grad()
def features_of(classifier, digits):
    return classifier.encoder.train()(normalise(digits.pixels))


def state_of(trained):
    return {name: tensor.clone() for name, tensor in trained.module.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_at_strength_zero_it_is_plain_training_to_the_bit(classifier, digits):
    plain = train(classifier, digits, range(64), range(64, 128), TRAIN, 0, log=silent)
    assert same(state_of(run(classifier, digits, regulariser=SAEMask(), strength=0.0)), state_of(plain))
    assert same(state_of(run(classifier, digits)), state_of(plain))
    assert same(state_of(run(classifier, digits, regulariser=Selective(), strength=100.0)), state_of(plain))


def test_the_epoch_of_the_best_macro_f1_is_kept_where_choices_are_made_by_it(classifier, digits):
    history, config = [], TRAIN.model_copy(update={"choose_by": "macro_f1", "epochs": 3, "learning_rate": 0.01})
    trained = train(
        classifier, digits, range(64), range(64, 128), config, 0, log=lambda metrics, _: history.append(metrics)
    )
    predicted = predict(trained.module, digits, range(64, 128)).argmax(1)
    labels = digits.labels[64:128]
    expected = f1_score(labels, predicted, average="macro", labels=labels.unique())
    scores = [metrics["validation/macro_f1"] for metrics in history]
    assert max(scores) == scores[trained.best_epoch - 1] == pytest.approx(expected) and len(set(scores)) > 1


@pytest.mark.parametrize("kind", [k for k in REGULARISERS if k not in (NoPenalty, SparseKL, SparseWasserstein)])
def test_the_first_step_is_that_of_plain_training(classifier, digits, kind):
    regulariser = kind()
    more = extras(classifier, digits, regulariser)
    robust = run(classifier, digits, ONE_STEP, regulariser=regulariser, strength=1000.0, **more)
    assert same(state_of(robust), state_of(run(classifier, digits, ONE_STEP)))


@pytest.mark.parametrize("regulariser", [L2(), SAEMask(), LDIFS(), PCA(), L2SP()])
def test_a_strong_penalty_keeps_features_where_they_are(classifier, digits, regulariser):
    more = extras(classifier, digits, regulariser)
    slow = TRAIN.model_copy(update={"epochs": 6, "learning_rate": 1e-4})
    before = features_of(classifier, digits)
    moves = []
    for strength in (0.0, 1e4):
        after = run(classifier, digits, slow, regulariser=regulariser, strength=strength, **more).module
        moves.append(Drift.between(features_of(after, digits), before).change.norm())
    assert moves[1] < 0.75 * moves[0]  # the mask leaves what active latents do free, and so keeps the least


@pytest.mark.parametrize("regulariser", [L2(), SAEMask(), LDIFS()])
def test_a_run_cut_short_and_resumed_ends_with_the_same_weights(classifier, digits, regulariser):
    more = extras(classifier, digits, regulariser) | {"regulariser": regulariser, "strength": 10.0}
    states = []
    whole = run(classifier, digits, save=states.append, **more)
    stream = io.BytesIO()
    torch.save(states[0], stream)
    stream.seek(0)
    resumed = run(classifier, digits, resume=torch.load(stream, weights_only=True), **more)
    assert same(state_of(whole), state_of(resumed))


def test_cached_anchors_train_as_live_ones_do(classifier, digits):
    cached = CachedAnchors(features_of(classifier, digits)[None])
    runs = [run(classifier, digits, regulariser=L2(), strength=10.0, anchors=anchors) for anchors in (None, cached)]
    for name, tensor in state_of(runs[0]).items():
        torch.testing.assert_close(runs[1].module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{"augment": "shift"}, {"augment": "resized_crop", "views": 2}])
def test_anchors_of_staged_views_train_as_live_ones_to_the_bit(classifier, digits, settings):
    config = TRAIN.model_copy(update={"epochs": 3, **settings})
    anchors = CachedAnchors(torch.stack([staged(classifier, digits, config, view) for view in range(config.num_views)]))
    for seed in (0, 1):  # one staging serves every seed
        runs = [
            run(classifier, digits, config, seed, regulariser=L2(), strength=10.0, anchors=each)
            for each in (None, anchors)
        ]
        assert same(state_of(runs[0]), state_of(runs[1]))


@torch.no_grad()
def staged(classifier, digits, config, number):
    """The features of one view, in batches of another order than training has."""
    view = View(config.augment, number)
    encoder = classifier.encoder.train()  # the kernels of training
    return torch.cat([encoder(b.images) for b in view_batches(digits, range(len(digits)), 16, view=view)])


@pytest.mark.parametrize(
    "settings, views",
    [({}, 2), ({"augment": "shift"}, 1), ({"augment": "shift", "views": 2}, 3), ({"augment": "crop_flip"}, 1)],
)
def test_anchors_of_other_views_are_refused(classifier, digits, settings, views):
    config = TRAIN.model_copy(update={"epochs": 4, **settings})
    features = features_of(classifier, digits).expand(views, -1, -1)
    with pytest.raises(ValueError, match="anchors"):
        run(classifier, digits, config, regulariser=L2(), anchors=CachedAnchors(features))


def test_clean_anchors_serve_every_view_on_request(classifier, digits):
    config = TRAIN.model_copy(update={"augment": "crop_flip"})
    clean = CachedAnchors(features_of(classifier, digits)[None], clean=True)
    assert run(classifier, digits, config, regulariser=L2(), anchors=clean).epochs_trained == 2


def test_missing_anchors_are_named(classifier, digits):
    features = features_of(classifier, digits)[None].clone()
    features[0, 5] = float("nan")
    with pytest.raises(ValueError, match="image 5 in view 0"):
        run(classifier, digits, regulariser=L2(), anchors=CachedAnchors(features))


def test_a_linear_probe_trains_the_head_alone_and_everything_learns_after_it(classifier, digits):
    probe = run(classifier, digits, trained="head").module
    assert same(probe.encoder.state_dict(), classifier.encoder.state_dict())
    assert not torch.equal(probe.head.weight, classifier.head.weight)
    after = run(probe, digits).module
    assert not same(after.encoder.state_dict(), probe.encoder.state_dict())


def test_the_classifier_that_is_given_is_left_alone(classifier, digits):
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    sae = SmallTopK()
    run(classifier, digits, regulariser=SAEMask(), strength=70.0, sae=sae)
    assert same(before, classifier.state_dict())
    assert all(p.grad is None and p.requires_grad for p in (*classifier.parameters(), *sae.parameters()))


def test_a_run_with_a_real_autoencoder_reports_divergence(classifier, digits):
    hot = TRAIN.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30})
    info = SAEInfo(width=16, backbone="", num_latents=64, sparsity=TopK(k=4))
    sae = initial(info, SAETrainConfig(), torch.ones(16), seed=0)
    with pytest.raises(Diverged, match=r"nan .*epoch 1, step 2"):
        run(classifier, digits, hot, regulariser=SAEMask(), strength=1.0, sae=sae)


def test_logits_under_autocast_are_those_of_single_precision(classifier):
    features = 7 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    expected = classifier.head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classifier.head(features), expected)


@pytest.mark.parametrize(("regulariser", "passes"), [(L2SP(), 1), (L2(), 2)])
def test_a_hold_of_weights_alone_encodes_no_picture_twice(classifier, digits, regulariser, passes):
    encoder = Counting(classifier.encoder)
    run(Classifier(encoder, classifier.head), digits, ONE_STEP, regulariser=regulariser, strength=0.1)
    assert sum(encoder.batches) == passes * 64 + 64  # the frozen copy counts into the same list; so does validation


class Counting(torch.nn.Module):
    """An encoder that notes how many pictures it, or a copy of it, encodes."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.batches = encoder, Shared()

    def forward(self, pictures):
        self.batches.append(len(pictures))
        return self.encoder(pictures)


class Shared(list):
    """Stays the same in copies of what holds it."""

    def __deepcopy__(self, memo):
        return self


def test_batch_norms_keep_what_they_learnt_in_pre_training():
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten())
    pictures = images()
    expected = encoder.eval()(pictures)
    assert torch.equal(Classifier(encoder, torch.nn.Identity()).train()(pictures), expected)


def test_half_precision_trains(classifier, digits):
    half = TRAIN.model_copy(update={"precision": "bf16"})
    assert run(classifier, digits, half, regulariser=SAEMask(), strength=70.0, sae=SmallTopK()).epochs_trained == 2


def test_what_a_regulariser_lacks_is_said(classifier, digits):
    with pytest.raises(ValueError, match=r"SAEMask .*sae"):
        run(classifier, digits, regulariser=SAEMask())
    with pytest.raises(ValueError, match=r"LDIFS.*anchors"):
        run(classifier, digits, regulariser=LDIFS(), anchors=CachedAnchors(features_of(classifier, digits)[None]))


def test_a_penalty_on_features_that_cannot_move_is_refused():
    with pytest.raises(ValidationError, match=r"L2|head"):
        FinetuneConfig(trained="head", regulariser=L2())
