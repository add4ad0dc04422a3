"""What is logged of an epoch: every term of the loss, and how far features and their latents have moved."""

import pytest
import torch

from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.finetune import finetune
from amalgam.tasks.clip.finetuning.regularisers import AddRemove, NoPenalty
from amalgam.tasks.clip.testing.similarity import DriftWatch
from amalgam.tasks.sae.autoencoder import initial
from amalgam.tasks.sae.config import SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.training.config import TrainConfig
from tests.tasks.clip.worlds import SmallTopK

TRAIN = TrainConfig(epochs=2, batch_size=24, optimizer="adamw", learning_rate=1e-3)
HELD_OUT = range(64, 128)


def run(classifier, digits, regulariser, sae=None, measure=None):
    history = []
    config = FinetuneConfig(train=TRAIN, regulariser=regulariser, strength=50.0)
    trained = finetune(
        classifier,
        digits,
        range(64),
        HELD_OUT,
        config,
        0,
        log=lambda metrics, epoch: history.append(metrics),
        sae=sae,
        measure=measure,
    )
    return trained.module, history


def watch(classifier, digits):
    info = SAEInfo(width=16, num_latents=64, sparsity=TopK(k=4), backbone="")
    sae = initial(info, SAETrainConfig(), torch.zeros(16), seed=0)
    return DriftWatch.start(classifier.encoder, digits, HELD_OUT, sae, "cpu")


def test_the_terms_of_an_epoch_add_up_to_its_loss(classifier, digits):
    _, history = run(classifier, digits, AddRemove(), SmallTopK())
    for metrics in history:
        terms = [value for name, value in metrics.items() if name.startswith("train/penalty/")]
        assert len(terms) == 3 and sum(terms) > 0
        assert metrics["train/cross_entropy"] + sum(terms) == pytest.approx(metrics["train/loss"], rel=1e-5)


def test_looking_changes_nothing(classifier, digits, one_thread):
    plain, _ = run(classifier, digits, NoPenalty())
    watched, history = run(classifier, digits, NoPenalty(), measure=watch(classifier, digits))
    pairs = zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert all(0 < metrics["drift/jaccard"] < 1 for metrics in history)
