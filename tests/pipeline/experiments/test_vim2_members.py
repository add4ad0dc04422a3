"""Members of ViM2 go through the pipeline as others do: trained, staged, ensembled; with a common start, merged."""

import numpy as np
import torch

from amalgam import TaskArithmetic, merge
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.experiments.combining import combined
from amalgam.pipeline.steps.fusion.members import ENSEMBLE, MEMBER, EvaluationConfig, MemberConfig
from amalgam.pipeline.store.checkpoints import load_model
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.splits import ClassSplit, SampleConfig
from amalgam.tasks.models import ModelSpec, build
from amalgam.tasks.scoring.logits import predict, score
from amalgam.tasks.training.config import TrainConfig

DIGITS = DataSpec(name="digits")
MODEL = ModelSpec(name="vim2_tiny", num_classes=10, in_shape=(1, 8, 8), options={"width": 16, "depths": (1,)})


def member(index):
    return MEMBER(
        MemberConfig(
            sample=SampleConfig(data=DIGITS, seed=0),
            model=MODEL,
            split=ClassSplit(other=0.2),
            training=TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3, optimizer="adamw"),
            num_members=2,
            member=index,
            seed=0,  # of both: their start is the same
        )
    )


def accuracy(network):
    images = load(DIGITS, "test")
    return score(predict(network, images, np.arange(len(images))), images.labels, 10)["accuracy"]


def test_members_are_trained_staged_ensembled_and_merged(tmp_path):
    members = member(0), member(1)
    config = EvaluationConfig(data=DIGITS, seed=0, kind="logit ensemble", weights=(0.5, 0.5))
    ensemble = ENSEMBLE(config, members=members)
    steps = [ensemble, *combined(members, (), ("mean-logits", "fitted-probabilities"), 0)]
    run(steps, tmp_path, Local())
    found = {r.metric: r.value for r in read_results(ensemble.path(tmp_path)) if r.role == "test"}
    combiners = {r.network.method: r.value for r in read_results(steps[-1].path(tmp_path)) if r.metric == "accuracy"}
    trained = [load_model(each.path(tmp_path)) for each in members]
    assert combiners["mean-logits ensemble"] == found["accuracy"] > max(map(accuracy, trained)) - 0.02
    merged = build(MODEL, 1)
    states = [network.state_dict() for network in trained]
    merged.load_state_dict(merge(build(MODEL, 0).state_dict(), states, TaskArithmetic(scale=0.5)))
    for key, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, (states[0][key] + states[1][key]) / 2)
    assert accuracy(merged) > min(map(accuracy, trained))
