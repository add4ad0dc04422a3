"""Train one member; evaluate members and their ensembles."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.configs import EvaluationConfig, MemberConfig
from amalgam.pipeline.steps.measures import Metrics, cost_metrics, test_metrics
from amalgam.pipeline.steps.samples import example, member_indices, open_pool
from amalgam.pipeline.store.checkpoints import load_model, save_model
from amalgam.tasks.data.images import load
from amalgam.tasks.models import build
from amalgam.tasks.scoring.logits import logit_ensemble, predict, probability_ensemble
from amalgam.tasks.tracing.cost import cost_of
from amalgam.tasks.training.loop import train


def train_member(config: MemberConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Train the member and keep its best epoch; after a retry, go on from the last finished epoch."""
    images, pool, validation = open_pool(config.sample, work.data_root)
    trained = train(
        build(config.model, config.seed), images, member_indices(config, images, pool), validation,
        config.training, config.seed, log=work.log, device=work.device,
        resume=resume_state(work), save=saver(work),
    )  # fmt: skip
    save_model(trained.module, config.model, work.out)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": images.fingerprint}


def evaluate(config: EvaluationConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """One network, or several as an ensemble, on the test split; the ensemble costs what its members cost together."""
    images = load(config.data, "test", work.data_root)
    members = [load_model(folder).to(work.device) for folder in inputs["members"]]
    logits = [predict(member, images, np.arange(len(images)), device=work.device) for member in members]
    combine = {"member": lambda ls, ws: ls[0], "logit ensemble": logit_ensemble}.get(config.kind, probability_ensemble)
    cost = reduce(add, (cost_of(member, example(images, work.device)) for member in members))
    scores = test_metrics(combine(logits, config.weights or None), images)
    return {**scores, **cost_metrics(cost), "data_fingerprint": images.fingerprint}
