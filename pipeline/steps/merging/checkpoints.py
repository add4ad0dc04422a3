"""Checkpoints of one fine-tuning run, kept after every epoch, and what their merges are worth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.merging.task import TaskConfig, headed_base

HISTORY = "history.parquet"


class HistoryConfig(TaskConfig):
    """A fine-tuning run whose checkpoints are kept: of all weights of the encoder, or of adapters alone."""

    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of the adapters; None fine-tunes all weights of the encoder."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """Adapters' products count `lora_alpha / lora_rank`."""


class CheckpointsConfig(Config):
    """How the checkpoints of one run are merged."""

    run: HistoryConfig
    last: int = Field(ge=1)
    """How many checkpoints, the last ones, are merged."""
    penalties: tuple[float, ...] = Field(min_length=1)
    """Of metrics-weighted averaging, chosen from on validation images."""
    decays: tuple[float, ...] = Field(min_length=1)
    """Of the exponential moving average, chosen from in the same way."""


def train_history(config: HistoryConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write one `epoch-NNN.safetensors` an epoch and `history.parquet`; a retry begins anew: none is missing."""
    from amalgam.pipeline.store.checkpoints import save_model
    from amalgam.pipeline.store.state_files import write_safetensors
    from amalgam.pipeline.tracking.history import write_history
    from amalgam.tasks.merging.multitask.heads import encoder_state
    from amalgam.tasks.merging.multitask.lora import adapter_state, with_lora
    from amalgam.tasks.training.loop import train

    start, spec, parts = headed_base(config, inputs["base"], work)
    save_model(start, spec, work.out)
    kept = set(encoder_state(start))
    if config.lora_rank is not None:
        start = with_lora(start, config.lora_rank, config.lora_alpha / config.lora_rank, config.seed)
    rows: list[dict[str, float]] = []

    def log(metrics: dict[str, float], epoch: int) -> None:
        rows.append({"step": epoch, **metrics})
        work.log(metrics, epoch)

    def save(state: dict[str, Any]) -> None:
        whole = state["module"]
        found = adapter_state(whole) if config.lora_rank else {name: whole[name] for name in kept}
        found = {name: tensor.cpu() for name, tensor in found.items()}
        write_safetensors(work.out / f"epoch-{len(rows):03d}.safetensors", found, found.items())

    trained = train(
        start,
        parts.train,
        parts.pool,
        parts.validation,
        config.training,
        config.seed,
        log=log,
        save=save,
        device=work.device,
    )
    write_history(work.out / HISTORY, rows)
    return {"best_epoch": trained.best_epoch, "data_fingerprint": parts.train.fingerprint}


def merge_checkpoints(config: CheckpointsConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `results.parquet`: test accuracy of the last, the best and every merge of the checkpoints."""
    from amalgam.pipeline.steps.merging.candidates import CheckpointBench
    from amalgam.pipeline.store.tables.results import write_results
    from amalgam.tasks.scoring.results import Network, Result

    bench = CheckpointBench.opened(config, inputs["run"], work)
    prefix = "full" if config.run.lora_rank is None else "LoRA"
    results = []
    for label, chosen in bench.chosen().items():
        network = Network(kind="fused", method=f"{prefix} {label}", seed=config.run.seed)
        results.append(Result(network, "test", None, "accuracy", bench.test(chosen.state)))
        results.append(Result(network, "chosen", None, "validation_accuracy", chosen.validation))
        results += [Result(network, "chosen", None, name, value) for name, value in chosen.settings.items()]
    write_results(results, work.out)
    return {f"{one.network.method}/accuracy": one.value for one in results if one.role == "test"}


HISTORY_RUN = Kind("checkpoint_history", train_history, HistoryConfig, expect=Expect(20, 5_000_000))
CHECKPOINTS = Kind("merged_checkpoints", merge_checkpoints, CheckpointsConfig, expect=Expect(5, 20_000))
