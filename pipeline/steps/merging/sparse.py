"""Sparse fine-tuning: score the entries of a base for a task, and train those of highest score alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from amalgam.pipeline.engine.kinds import Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.merging.task import TaskConfig, headed_base
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.merging.sparse.bayestune import BayesTune

if TYPE_CHECKING:
    from torch import Tensor, nn

    from amalgam.tasks.merging.multitask.data import TaskData

Rule = Literal["random", "magnitude", "fisher"]
Budget = Literal["global", "layer"]
SCORES = "scores.safetensors"


class ScoresConfig(TaskConfig):
    """Scores of the entries of a base's encoder for a task."""

    by: BayesTune | Rule
    """Posterior scales; or noise, how far full fine-tuning moves an entry, its Fisher information at the base."""
    num_rows: int = Field(default=512, ge=1)
    """Training images that Fisher information is of, at most."""


class SparseConfig(TaskConfig):
    """Fine-tuning of the entries of highest score, its learning rate chosen on validation images."""

    label: str
    """What reports call how entries are chosen."""
    share: float = Field(gt=0, le=1)
    """Of the encoder's entries, those that are trained; 1 is full fine-tuning, for which no scores are read."""
    budget: Budget = "global"
    learning_rates: tuple[float, ...] = Field(min_length=1)
    base_data: DataSpec
    """What the base was trained on, to see how much of it is forgotten."""


def score_entries(config: ScoresConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `scores.safetensors`, an array for each parameter that is trained."""
    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.state_files import write_safetensors
    from amalgam.tasks.merging.sparse.chain import sparse_scores
    from amalgam.tasks.merging.sparse.masks import movement, random_scores
    from amalgam.tasks.merging.statistics.fisher import fisher_sums
    from amalgam.tasks.training.loop import train

    module, _, parts = headed_base(config, inputs["base"], work)
    start = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    run: dict[str, Any] = {"log": work.log, "resume": resume_state(work), "save": saver(work), "device": work.device}
    if isinstance(config.by, BayesTune):
        scores = sparse_scores(module, parts.train, parts.pool, config.by, config.seed, **run)
    elif config.by == "random":
        scores = random_scores(start, config.seed)
    elif config.by == "fisher":
        scores = dict(fisher_sums(module, parts.batches(config.num_rows), "exact"))
    else:
        tuned = train(module, parts.train, parts.pool, parts.validation, config.training, config.seed, **run).module
        scores = movement(start, tuned.cpu().state_dict())
    scores = {name: score.float().contiguous() for name, score in scores.items()}
    write_safetensors(work.out / SCORES, scores, scores.items())
    return {"entries": sum(score.numel() for score in scores.values()), "data_fingerprint": parts.train.fingerprint}


def train_sparsely(config: SparseConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write the mask, the network and `results.parquet`: accuracy on the task, and what is left of the base's own."""
    from amalgam.pipeline.store.checkpoints import load_model, save_model, save_nonzeros
    from amalgam.pipeline.store.measures import recorded
    from amalgam.pipeline.store.state_files import open_state
    from amalgam.tasks.data.images import load
    from amalgam.tasks.merging.multitask.data import accuracy
    from amalgam.tasks.merging.multitask.heads import encoder_state, with_encoder
    from amalgam.tasks.merging.sparse.masks import density, select
    from amalgam.tasks.scoring.results import Network, Result

    module, spec, parts = headed_base(config, inputs["base"], work)
    masks = None
    if config.share < 1:
        masks = select(dict(open_state(inputs["scores"] / SCORES)), config.share, config.budget)
        save_nonzeros(masks, work.out)
    validation, rate, best = _best(config, module, parts, masks, work)
    save_model(best, spec, work.out)
    base = load_model(inputs["base"])
    own = load(config.base_data, "test", work.data_root)
    kept = accuracy(with_encoder(base, encoder_state(best.cpu())), own, device=work.device)
    network = Network(kind="fused", method=config.label, seed=config.seed)
    found = {
        ("test", "accuracy"): accuracy(best, parts.test, device=work.device),
        ("test", "base_accuracy"): kept,
        ("chosen", "validation_accuracy"): validation,
        ("chosen", "learning_rate"): rate,
        ("chosen", "density"): 1.0 if masks is None else density(masks),
    }
    results = [Result(network, role, None, metric, value) for (role, metric), value in found.items()]
    return {**recorded(results, work.out), "data_fingerprint": parts.train.fingerprint}


def _best(
    config: SparseConfig, module: "nn.Module", parts: "TaskData", masks: "dict[str, Tensor] | None", work: Workspace
) -> "tuple[float, float, nn.Module]":
    """The highest validation accuracy over learning rates, the rate that reached it first, and its network."""
    from amalgam.tasks.merging.multitask.data import accuracy
    from amalgam.tasks.training.loop import train

    found: tuple[float, float, nn.Module] | None = None
    for number, rate in enumerate(config.learning_rates):

        def log(metrics: dict[str, float], epoch: int, number: int = number) -> None:
            work.log({f"{name}@{number}": value for name, value in metrics.items()}, epoch)

        how = config.training.model_copy(update={"learning_rate": rate})
        images = (parts.train, parts.pool, parts.validation)
        tuned = train(module, *images, how, config.seed, log=log, masks=masks, device=work.device).module
        reached = accuracy(tuned, parts.train, parts.validation, work.device)
        if found is None or reached > found[0]:
            found = reached, rate, tuned
    assert found is not None
    return found


SCORED = Kind("sparse_scores", score_entries, ScoresConfig, expect=Expect(10, 500_000))
SPARSE = Kind("sparse", train_sparsely, SparseConfig, expect=Expect(20, 1_000_000))
